"""CoupAlign's auxiliary loss against its formula, written out pixel by pixel, and what must not break it."""

import math

import pytest
import torch
from test_alignment import dot, make_case, own_and_others, unit

from magnet.losses.contrast import pixel_contrast


def test_pixel_contrast_by_formula():
    outputs, batch, inside = make_case()
    images = []
    for row in range(3):
        own, others = own_and_others(outputs, inside, row)
        centre = unit([sum(column) / len(own) for column in zip(*own)])
        terms = []
        for z in own:
            same = math.exp(dot(z, centre) / 0.2)
            terms.append(-dot(z, centre) / 0.2 + math.log(same + sum(math.exp(dot(z, w) / 0.2) for w in others)))
        images.append(sum(terms) / len(terms))
    assert pixel_contrast(outputs, batch, temperature=0.2).item() == pytest.approx(sum(images) / 3, rel=1e-5)


def test_few_samples_stand_for_all_pixels():
    """Where the object's pixels are all alike and so are the others, any n of them give the formula's value."""
    _, batch, inside = make_case()
    features = torch.where(inside[:, None], torch.tensor([1.0, 0, 0, 0, 0]).view(1, 5, 1, 1), 0.0)
    features[:, 1] = (~inside).float()  # at right angles
    loss = pixel_contrast({"mask_features": features}, batch, num_samples=3, temperature=0.5)
    assert loss.item() == pytest.approx(math.log(1 + 3 * math.exp(-1 / 0.5)), rel=1e-5)


def test_how_a_batch_is_split_changes_nothing():
    outputs, batch, _ = make_case()
    batch["masks"][1] = 0
    batch["masks"][1, :4, :8] = 1  # two object pixels only
    rows = [
        pixel_contrast({"mask_features": outputs["mask_features"][r : r + 1]}, {"masks": batch["masks"][r : r + 1]})
        for r in range(3)
    ]
    torch.testing.assert_close(pixel_contrast(outputs, batch), torch.stack(rows).mean())


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_object_and_no_background_give_a_zero_with_a_gradient(value, dtype):
    outputs, batch, _ = make_case()
    features = outputs["mask_features"].to(dtype).requires_grad_()
    loss = pixel_contrast({"mask_features": features}, {"masks": torch.full_like(batch["masks"], value)})
    assert loss == 0
    loss.backward()
    assert features.grad.eq(0).all()


def test_under_bfloat16_similarities_are_float32():
    outputs, batch, _ = make_case()
    half = outputs["mask_features"].bfloat16()
    expected = pixel_contrast({"mask_features": half.float()}, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = pixel_contrast({"mask_features": half}, batch)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


def test_extreme_features_stay_finite():
    outputs, batch, _ = make_case()
    features = (outputs["mask_features"] * torch.tensor([1e4, 1e-8, 0.0]).view(3, 1, 1, 1)).requires_grad_()
    pixel_contrast({"mask_features": features}, batch, temperature=1e-3).backward()
    assert features.grad.isfinite().all()


def test_descent_parts_the_object_from_the_rest():
    outputs, batch, inside = make_case()
    features = outputs["mask_features"].clone().requires_grad_()
    optimizer = torch.optim.Adam([features], lr=0.1)
    for _ in range(30):
        loss = pixel_contrast({"mask_features": features}, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z = torch.nn.functional.normalize(features.detach(), dim=1)
    for row in range(3):
        own, others = z[row][:, inside[row]], z[row][:, ~inside[row]]
        centre = torch.nn.functional.normalize(own.mean(1), dim=0)
        assert (centre @ own).min() > (own.T @ others).max() + 0.2
