"""Alignment losses against their formulas, written out pixel by pixel, and what must not break them."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import tiny_config

import magnet
from magnet.config import AlignmentConfig
from magnet.losses.alignment import Alignment, sample

CONFIG = AlignmentConfig(pixel_temperature=0.2, text_temperature=0.3)
TERMS = ("pixel_pixel", "pixel_text")


def build(config: AlignmentConfig = CONFIG) -> Alignment:
    torch.manual_seed(0)
    return Alignment(config, word_width=6, feature_width=5)


def make_case(num: int = 3, size: int = 4):
    """Masks at four times the size of the features: blocks of 4x4 wholly in or out, but for one that is half in."""
    torch.manual_seed(1)
    inside = torch.rand(num, size, size) > 0.6
    inside[:, 0, 0], inside[:, 0, 1], inside[:, 1, 1], inside[:, 3, 3] = True, True, False, False
    masks = inside.float().repeat_interleave(4, 1).repeat_interleave(4, 2)
    masks[:, 12:16, 12:14] = 1  # half of the last position: not the object's
    token_mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])[:num]
    outputs = {"mask_features": torch.randn(num, 5, size, size), "word_features": torch.randn(num, 4, 6)}
    return {**outputs, "token_mask": token_mask}, {"masks": masks}, inside


def unit(values: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b))


def own_and_others(outputs: dict, inside: torch.Tensor, row: int):
    pixels: dict[bool, list] = {True: [], False: []}
    for y in range(inside.shape[1]):
        for x in range(inside.shape[2]):
            pixels[bool(inside[row, y, x])].append(unit(outputs["mask_features"][row, :, y, x].tolist()))
    return pixels[True], pixels[False]


def test_pixel_pixel_by_formula():
    outputs, batch, inside = make_case()
    images = []
    for row in range(3):
        own, others = own_and_others(outputs, inside, row)
        terms = []
        for i, z in enumerate(own):
            same = [math.exp(dot(z, w) / 0.2) for j, w in enumerate(own) if j != i]
            positive = sum(same) / len(same)
            terms.append(-math.log(positive / (positive + sum(math.exp(dot(z, w) / 0.2) for w in others))))
        images.append(sum(terms) / len(terms))
    assert build()(outputs, batch)["pixel_pixel"].item() == pytest.approx(sum(images) / 3, rel=1e-5)


@pytest.mark.parametrize("sentence", ["mean", "first"])
def test_pixel_text_by_formula(sentence):
    outputs, batch, inside = make_case()
    alignment = build(replace(CONFIG, sentence=sentence))
    weight, bias = alignment.text.weight.tolist(), alignment.text.bias.tolist()
    images = []
    for row in range(3):
        words = [w for w, valid in zip(outputs["word_features"][row].tolist(), outputs["token_mask"][row]) if valid]
        mean = [sum(column) / len(words) for column in zip(*words)] if sentence == "mean" else words[0]
        text = unit([dot(line, mean) + b for line, b in zip(weight, bias)])
        own, others = own_and_others(outputs, inside, row)
        negative = sum(math.exp(dot(z, text) / 0.3) for z in others)
        terms = [-math.log(math.exp(dot(z, text) / 0.3) / (math.exp(dot(z, text) / 0.3) + negative)) for z in own]
        images.append(sum(terms) / len(terms))
    assert alignment(outputs, batch)["pixel_text"].item() == pytest.approx(sum(images) / 3, rel=1e-5)


def test_samples_are_drawn_without_repetition_from_the_right_pixels():
    pixels = torch.arange(40.0).view(1, 40, 1).repeat(500, 1, 1)
    where = (pixels[..., 0] % 2 == 0) & (pixels[..., 0] < 20)  # ten of them
    torch.manual_seed(3)
    drawn, there = sample(pixels, where, num=4)
    assert drawn.shape == (500, 4, 1) and there.all()
    values = drawn[..., 0].long()
    assert all(len(set(row)) == 4 and set(row) <= set(range(0, 20, 2)) for row in values.tolist())
    counts = values.flatten().bincount(minlength=20)[::2] / 500
    assert (counts - 0.4).abs().max() < 0.08, "each as often as another"
    torch.manual_seed(3)
    assert torch.equal(sample(pixels, where, num=4)[0], drawn), "the seed decides"
    drawn, there = sample(pixels[:1], where[:1], num=256)  # fewer than asked for: all of them, each once
    assert sorted(drawn[there].flatten().tolist()) == list(range(0, 20, 2))


def test_padding_of_the_samples_and_of_the_text_changes_nothing():
    """Images with few object pixels give the same beside images with many as alone."""
    outputs, batch, _ = make_case()
    batch["masks"][1] = 0
    batch["masks"][1, :4, :8] = 1  # two object pixels only
    whole = build()(outputs, batch)
    alone = [
        build()({k: v[r : r + 1] for k, v in outputs.items()}, {"masks": batch["masks"][r : r + 1]}) for r in range(3)
    ]
    for name in TERMS:
        torch.testing.assert_close(whole[name], torch.stack([terms[name] for terms in alone]).mean())
    outputs["word_features"][2, 2:] = 1e3
    torch.testing.assert_close(build()(outputs, batch)["pixel_text"], whole["pixel_text"])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_no_object_and_no_background_give_a_zero_with_a_gradient(value):
    outputs, batch, _ = make_case()
    outputs["mask_features"].requires_grad_()
    alignment = build()
    terms = alignment(outputs, {"masks": torch.full_like(batch["masks"], value)})
    assert all(terms[name] == 0 for name in TERMS)
    sum(terms.values()).backward()
    assert outputs["mask_features"].grad.eq(0).all() and alignment.text.weight.grad.eq(0).all()


def test_a_single_object_pixel_has_no_partner_but_has_text():
    outputs, batch, _ = make_case(1)
    batch["masks"] = torch.zeros_like(batch["masks"])
    batch["masks"][:, :4, :4] = 1
    terms = build()(outputs, batch)
    assert terms["pixel_pixel"] == 0 and terms["pixel_text"] > 0


@pytest.mark.parametrize("temperature", [0.1, 1e-3])
def test_extreme_features_stay_finite(temperature):
    outputs, batch, _ = make_case()
    outputs["mask_features"] = outputs["mask_features"] * torch.tensor([1e4, 1e-8, 0.0]).view(3, 1, 1, 1)
    outputs["mask_features"].requires_grad_()
    alignment = build(replace(CONFIG, pixel_temperature=temperature, text_temperature=temperature))
    sum(alignment(outputs, batch).values()).backward()
    assert outputs["mask_features"].grad.isfinite().all() and alignment.text.weight.grad.isfinite().all()


def test_under_bfloat16_similarities_are_float32():
    outputs, batch, _ = make_case()
    half = {name: v.bfloat16() if v.is_floating_point() else v for name, v in outputs.items()}
    expected = build()({name: v.float() if v.is_floating_point() else v for name, v in half.items()}, batch)
    with torch.autocast("cpu", torch.bfloat16):
        terms = build()(half, batch)
    for name in TERMS:
        assert terms[name].dtype == torch.float32
        torch.testing.assert_close(terms[name], expected[name])


def test_the_log_says_how_many_sentences_count_as_zero():
    outputs, batch, _ = make_case()
    batch["masks"][0] = 0  # no position
    batch["masks"][1] = 0
    batch["masks"][1, :4, :4] = 1  # one
    assert Alignment.statistics(outputs, batch) == {
        "alignment_without_pixel": pytest.approx(1 / 3), "alignment_without_pair": pytest.approx(2 / 3)
    }  # fmt: skip


def test_terms_are_switched_by_their_weights():
    outputs, batch, _ = make_case()
    only_pixels = build(replace(CONFIG, pixel_text=0.0))
    assert list(only_pixels(outputs, batch)) == ["pixel_pixel"] and not list(only_pixels.parameters())
    assert list(build(replace(CONFIG, pixel_pixel=0.0))(outputs, batch)) == ["pixel_text"]


def test_settings_that_make_no_sense():
    for name, value, message in [
        ("sentence", "cls", "sentence='cls': one of 'mean', 'first'"),
        ("pixel_pixel", -1.0, r"alignment\.pixel_pixel=-1\.0: at least 0"),
        ("pixel_temperature", float("nan"), "above 0"),
        ("pixel_temperature", 0.0, r"alignment\.pixel_temperature=0\.0: above 0"),
        ("text_temperature", -0.1, r"alignment\.text_temperature=-0\.1"),
        ("pixel_pixel", float("inf"), r"alignment\.pixel_pixel=inf"),
        ("num_samples", 1, r"alignment\.num_samples=1: .* for a pair"),
        ("num_samples", 2.5, r"alignment\.num_samples=2\.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            build(replace(CONFIG, **{name: value}))


def test_descent_parts_the_object_from_the_rest():
    """On a network's own features: after a few steps the object's pixels are nearer to each other and to the text."""
    torch.manual_seed(0)
    model = magnet.build_model(tiny_config().model)
    alignment = Alignment(AlignmentConfig(), model.language.width, model.decoder.width)
    masks = torch.zeros(2, 32, 32)
    masks[:, 8:20, 4:24] = 1
    images, token_ids = torch.randn(2, 3, 32, 32) + 2 * masks[:, None], torch.full((2, 5), 7)
    optimizer = torch.optim.AdamW([*model.parameters(), *alignment.parameters()], lr=3e-3)
    history = []
    for _ in range(40):
        terms = alignment(model(images, token_ids, torch.ones_like(token_ids)), {"masks": masks})
        history.append({name: value.item() for name, value in terms.items()})
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert all(history[-1][name] < history[0][name] - 1 for name in TERMS)
