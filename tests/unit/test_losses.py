"""Segmentation losses against their formulas, summed pixel by pixel."""

import math

import pytest
import torch

from magnet.losses import TERMS, check_arguments, compute
from magnet.losses.segmentation import cross_entropy, dice, mask_bce, mask_dice

TWO_CLASSES = ("cross_entropy", "dice")

ELSEWHERE = ("no_target", "pixel_contrast")  # in test_no_target.py and test_contrast.py
MASK_TERMS = [name for name in TERMS if name not in ELSEWHERE]


def outputs_of(name: str, foreground: torch.Tensor) -> dict:
    """What a network gives whose foreground logits (B,h,w) these are: two classes, or one map in two predictions."""
    if name in TWO_CLASSES:
        return {"class_logits": torch.stack([-foreground, foreground], 1)}
    return {"mask_logits": foreground, "aux_mask_logits": [foreground / 2]}


@pytest.fixture
def case():
    torch.manual_seed(0)
    masks = (torch.rand(3, 5, 4) > 0.6).float()
    masks[2] = 0  # an image without foreground
    return {"class_logits": 3 * torch.randn(3, 2, 5, 4)}, {"masks": masks}


def probability(logits: torch.Tensor, b: int, y: int, x: int) -> list[float]:
    exponentials = [math.exp(v) for v in logits[b, :, y, x].double().tolist()]
    return [e / sum(exponentials) for e in exponentials]


def test_cross_entropy_by_formula(case):
    outputs, batch = case
    images = []
    for b in range(3):
        total = weights = 0.0
        for y in range(5):
            for x in range(4):
                label = int(batch["masks"][b, y, x])
                weight = (0.9, 1.1)[label]
                total -= weight * math.log(probability(outputs["class_logits"], b, y, x)[label])
                weights += weight
        images.append(total / weights)
    assert cross_entropy(outputs, batch).item() == pytest.approx(sum(images) / 3, rel=1e-5)


def test_dice_by_formula(case):
    outputs, batch = case
    terms = []
    for b in range(3):
        for c in range(2):
            overlap = total = 0.0
            for y in range(5):
                for x in range(4):
                    p = probability(outputs["class_logits"], b, y, x)[c]
                    g = float(int(batch["masks"][b, y, x]) == c)
                    overlap, total = overlap + p * g, total + p * p + g
            terms.append(1 - 2 * overlap / (total + 1e-6))
    assert dice(outputs, batch).item() == pytest.approx(sum(terms) / 6, rel=1e-5)


def test_mask_bce_by_formula(case):
    logits, masks = case[0]["class_logits"].unbind(1), case[1]["masks"]
    total = 0.0
    for prediction in logits:
        for value, truth in zip(prediction.flatten().tolist(), masks.flatten().tolist()):
            p = 1 / (1 + math.exp(-value))
            total -= math.log(p if truth else 1 - p) / masks.numel()
    outputs = {"aux_mask_logits": [logits[0]], "mask_logits": logits[1]}
    assert mask_bce(outputs, case[1]).item() == pytest.approx(total, rel=1e-5)


def test_mask_dice_by_formula(case):
    logits, masks = case[0]["class_logits"].unbind(1), case[1]["masks"]
    total = 0.0
    for prediction in logits:
        for b in range(3):
            p, g = prediction[b].sigmoid().flatten().tolist(), masks[b].flatten().tolist()
            overlap = sum(x * y for x, y in zip(p, g))
            total += (1 - (2 * overlap + 1) / (sum(p) + sum(g) + 1)) / 3
    outputs = {"aux_mask_logits": [logits[0]], "mask_logits": logits[1]}
    assert mask_dice(outputs, case[1]).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", MASK_TERMS)
def test_splitting_a_batch_changes_nothing(name, case):
    foreground, batch = case[0]["class_logits"][:, 1], case[1]
    whole = TERMS[name](outputs_of(name, foreground), batch)
    parts = [
        TERMS[name](outputs_of(name, foreground[b : b + 1]), {"masks": batch["masks"][b : b + 1]}) for b in range(3)
    ]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


@pytest.mark.parametrize("name", MASK_TERMS)
def test_a_perfect_answer_costs_nothing_and_a_wrong_one_much(name, case):
    _, batch = case
    sure, few = 100 * (2 * batch["masks"] - 1), {"masks": batch["masks"][:2]}
    assert TERMS[name](outputs_of(name, sure[:2]), few).item() < 1e-5
    assert TERMS[name](outputs_of(name, -sure[:2]), few).item() > 0.9


@pytest.mark.parametrize("name", MASK_TERMS)
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_empty_and_full_masks_are_ordinary(name, label):
    logits = torch.zeros(2, 4, 4, requires_grad=True)
    value = TERMS[name](outputs_of(name, logits), {"masks": torch.full((2, 8, 8), label)})
    value.backward()
    assert value > 0 and (logits.grad * (1 - 2 * label) > 0).all()  # downhill is towards the mask


@pytest.mark.parametrize("name", MASK_TERMS)
def test_coarse_logits_are_resized_to_the_masks(name):
    """Corners stay where they are: a 2x2 map becomes 3x3 with the mean of its neighbours between."""
    coarse = torch.tensor([[[0.0, 2.0], [4.0, 6.0]]])
    fine = torch.tensor([[[0.0, 1, 2], [2, 3, 4], [4, 5, 6]]])
    batch = {"masks": torch.tensor([[[0.0, 0, 1], [0, 1, 1], [1, 1, 1]]])}
    expected = TERMS[name](outputs_of(name, fine), batch)
    torch.testing.assert_close(TERMS[name](outputs_of(name, coarse), batch), expected)


@pytest.mark.parametrize("name", MASK_TERMS)
def test_bfloat16_logits_are_summed_in_float32(name):
    torch.manual_seed(0)
    logits, batch = torch.randn(2, 64, 64).bfloat16(), {"masks": (torch.rand(2, 64, 64) > 0.5).float()}
    expected = TERMS[name](outputs_of(name, logits.double()), batch)
    with torch.autocast("cpu", torch.bfloat16):
        value = TERMS[name](outputs_of(name, logits.requires_grad_()), batch)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert logits.grad.isfinite().all()


def test_a_term_that_the_network_has_nothing_for_is_named():
    outputs, batch = {"mask_logits": torch.zeros(1, 4, 4), "aux_mask_logits": []}, {"masks": torch.zeros(1, 4, 4)}
    with pytest.raises(ValueError, match="'class_logits', which this network does not give"):
        compute({"mask_bce": 1.0, "cross_entropy": 1.0}, outputs, batch)


def test_a_term_takes_the_arguments_it_is_given_and_no_others():
    outputs = {"mask_features": torch.randn(2, 4, 3, 3), "mask_logits": torch.zeros(2, 3, 3)}
    batch = {"masks": torch.zeros(2, 3, 3).index_fill(1, torch.tensor([0]), 1.0)}
    weights = {"pixel_contrast": 0.1}
    cold, warm = (
        compute(weights, outputs, batch, {"pixel_contrast": {"temperature": temperature}})["pixel_contrast"]
        for temperature in (0.05, 100.0)
    )
    assert warm == pytest.approx(math.log(1 + 6), abs=0.05), "all alike: one against six others"
    assert abs(cold - warm) > 0.1
    check_arguments(weights, {"pixel_contrast": {"temperature": 0.2, "num_samples": 4}})
    for arguments, message in (
        ({"pixel_contrast": {"heat": 1.0}}, r"no pixel_contrast\.heat; pixel_contrast takes num_samples, temperature"),
        ({"dice": {"power": 1.0}}, "dice is no term of losses="),
    ):
        with pytest.raises(ValueError, match=message):
            check_arguments(weights, arguments)
