import numpy as np
import pandas as pd
import pytest
import torch

from magnet.metrics import (
    PRECISION_AT,
    PROTOCOLS,
    find_protocol,
    intersection_union,
    ratios,
    rle_decode,
    rle_encode,
    rle_encode_all,
    rle_intersection_union,
)


def test_run_lengths_survive_the_round_trip():
    generator = np.random.default_rng(0)
    for shape in [(1, 1), (1, 9), (9, 1), (7, 5), (64, 48)]:
        for share in (0, 0.1, 0.5, 1):
            mask = generator.random(shape) < share
            np.testing.assert_array_equal(rle_decode(rle_encode(mask), *shape), mask)


def test_run_lengths_go_down_columns():
    mask = np.array([[0, 1], [1, 1]], bool)  # column by column: 0 1 1 1, so one 0 and three 1
    assert rle_encode(mask) == "13"


@pytest.mark.parametrize("height, width", [(6, 7), (5, 6), (2, 2), (5, 8)])
def test_run_lengths_of_another_size_are_refused(height, width):
    rle = rle_encode(np.eye(5, 7, dtype=bool))
    with pytest.raises(ValueError, match=f"{height} × {width}"):
        rle_decode(rle, height, width)


@pytest.mark.parametrize("damage", [lambda rle: rle[:-2], lambda rle: rle[:1], lambda rle: "", lambda rle: rle + "~~"])
def test_damaged_run_lengths_are_refused(damage):
    mask = np.random.default_rng(1).random((20, 30)) < 0.5
    with pytest.raises(ValueError, match="damaged"):
        rle_decode(damage(rle_encode(mask)), 20, 30)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 5), (64, 48)])
def test_run_lengths_of_a_batch_are_those_of_each(shape):
    masks = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 1, 6)[:, None, None]
    assert rle_encode_all(masks) == [rle_encode(mask) for mask in masks.numpy()]


def test_intersection_and_union_of_run_lengths_are_those_of_pixels():
    generator = np.random.default_rng(3)
    for prediction, truth in generator.random((2, 30, 9, 7)).transpose(1, 0, 2, 3) < generator.random((30, 2, 1, 1)):
        found = rle_intersection_union(rle_encode(prediction), rle_encode(truth), 9, 7)
        assert found == intersection_union(prediction, truth)


def test_intersection_and_union_by_hand():
    prediction = np.array([[1, 1, 0], [0, 0, 0]], bool)
    truth = np.array([[0, 1, 1], [0, 0, 1]], bool)
    assert intersection_union(prediction, truth) == (1, 4)


def test_intersection_and_union_by_brute_force():
    generator = np.random.default_rng(2)
    predictions, truths = generator.random((2, 20, 6, 8)) < generator.random((2, 20, 1, 1))
    intersections, unions = intersection_union(predictions, truths)
    for i, (prediction, truth) in enumerate(zip(predictions, truths)):
        a, b = set(zip(*np.nonzero(prediction))), set(zip(*np.nonzero(truth)))
        assert (intersections[i], unions[i]) == (len(a & b), len(a | b))


def test_masks_of_two_shapes_or_kinds_are_refused():
    mask = np.zeros((2, 3), bool)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        intersection_union(mask, mask.T)
    with pytest.raises(ValueError, match="uint8"):
        intersection_union(mask.astype(np.uint8), mask)


@pytest.mark.parametrize("at", PRECISION_AT)
def test_ties_count_where_the_protocol_says_so(at):
    iou = PROTOCOLS["original"].iou(np.array([round(at * 1000), round(at * 10)]), np.array([1000, 10]))
    assert PROTOCOLS["original"].hits(iou, at).all() and PROTOCOLS["paper"].hits(iou, at).all()
    assert not PROTOCOLS["cris"].hits(iou, at).any()


def test_an_empty_union_is_wrong_except_under_gres():
    nothing = np.array([0]), np.array([0])
    assert {name: protocol.iou(*nothing)[0] for name, protocol in PROTOCOLS.items()} == {
        "paper": 0, "original": 0, "cris": 0, "gres": 1,
    }  # fmt: skip


def test_the_threshold_of_cris_is_a_probability_of_035():
    logit = PROTOCOLS["cris"].threshold
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(0.35)


def test_unknown_protocol_lists_the_known():
    with pytest.raises(ValueError, match=r"no protocol 'coco'.*paper, original, cris, gres"):
        find_protocol("coco")


def results(intersection, union, area, protocol):
    intersection, union = np.array(intersection), np.array(union)
    table = pd.DataFrame({"I": intersection, "U": union, "area": area})
    table["iou"] = PROTOCOLS[protocol].iou(intersection, union)
    table.attrs["protocol"] = protocol
    return table


def values(table):
    return {name: top.sum() / bottom.sum() for name, (top, bottom) in ratios(table).items()}


def test_overall_and_mean_iou_by_hand():
    # 1 of 2 pixels, 90 of 100: (0.5 + 0.9) / 2, and 91 of 102
    found = values(results([1, 90], [2, 100], [2, 95], "original"))
    assert found["mIoU"] == pytest.approx(0.7)
    assert found["oIoU"] == pytest.approx(91 / 102)
    assert [found[f"P@{at}"] for at in PRECISION_AT] == [1, 0.5, 0.5, 0.5, 0.5]


def test_ties_by_hand_under_both_rules():
    assert values(results([1, 9], [2, 10], [2, 9], "original"))["P@0.5"] == 1
    assert values(results([1, 9], [2, 10], [2, 9], "cris"))["P@0.5"] == 0.5


def test_gres_by_hand():
    # no target: answered empty, answered 10 pixels; target of 20: found half, answered empty, found whole
    found = values(results([0, 0, 10, 0, 20], [0, 10, 20, 20, 20], [0, 0, 20, 20, 20], "gres"))
    assert found["mIoU"] == pytest.approx((1 + 0 + 0.5 + 0 + 1) / 5)  # gIoU
    assert found["oIoU"] == pytest.approx(30 / 70)  # cIoU: the correct empty answer adds nothing
    assert found["N-acc"] == 1 / 2
    assert found["T-acc"] == 2 / 3
    assert found["P@0.5"] == 2 / 3  # over the three with a target
