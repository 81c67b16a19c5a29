"""Figures of the insides: what is drawn where, checked on the artists."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from magnet.workbench import anatomy

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
TRUTH = np.zeros((40, 60), bool)
TRUTH[10:20, 30:45] = True


def drawn(figure):
    """The panels, without colour bars."""
    return [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]


def test_attention_rows_share_one_scale_and_cover_the_picture():
    maps = np.random.default_rng(1).random((2, 3, 4))
    rows = {"coarse": maps, "fine": 2 * np.ones((8, 12, 4))}
    figure = anatomy.attention_rows(IMAGE, ["[CLS]", "a", "$b", "[SEP]"], rows, "times")
    panels = drawn(figure)
    assert len(panels) == 8
    assert [panels[0].get_ylabel(), panels[4].get_ylabel()] == ["coarse", "fine"]
    assert [axis.get_title() for axis in panels[:4]] == ["[CLS]", "a", "$b", "[SEP]"]
    for index, axis in enumerate(panels):
        heat = axis.images[-1]
        assert heat.get_clim() == (0, 2) and heat.get_extent() == [-0.5, 59.5, 39.5, -0.5]
        if index < 4:
            np.testing.assert_allclose(heat.get_array(), maps[..., index])


def test_attention_beyond_the_tokens_does_not_set_the_scale():
    maps = np.ones((2, 2, 3))
    maps[..., 2] = 50
    assert drawn(anatomy.attention_rows(IMAGE, ["a", "b"], {"row": maps}))[0].images[-1].get_clim() == (0, 1)


def test_sampling_points_stand_where_they_read():
    """Head 0 reads the centre of pixel (row 1, column 2) of the second scale, which is 2 × 3: x 5/6, y 3/4."""
    position, weights = np.zeros((2, 2, 1, 2)), np.full((2, 2, 1), 0.5)
    position[0, 1, 0] = 2.0, 1.0
    weights[0] = [[0.25], [0.75]]
    figure = anatomy.sampling_points(IMAGE, TRUTH, (0.5, 0.25), position, weights, [(1, 1), (2, 3)])
    first, second = drawn(figure)
    assert first.get_title() == "1 × 1 pixels: 38 %" and second.get_title() == "2 × 3 pixels: 62 %"
    points = [part for part in second.collections if isinstance(part, PathCollection)]  # one a head
    assert points[0].get_offsets()[0].tolist() == pytest.approx([60 * 5 / 6 - 0.5, 40 * 3 / 4 - 0.5])
    assert points[0].get_sizes()[0] > points[1].get_sizes()[0]
    assert second.lines[-1].get_xydata()[0].tolist() == pytest.approx([29.5, 9.5])  # the query
    assert second.get_xlim() == (-0.5, 59.5) and second.get_ylim() == (39.5, -0.5)


def test_predictions_come_in_order_with_what_is_open():
    logits = np.stack([np.where(TRUTH, 1.0, -1.0), np.full(TRUTH.shape, -2.0)])
    closed = np.array([[True, False, False], [True, True, True]])
    figure = anatomy.predictions_in_order(IMAGE, TRUTH, logits, [closed])
    above, below = drawn(figure)[:2], drawn(figure)[2:]
    assert [axis.get_title() for axis in above] == ["prediction 0\nIoU 1.00", "prediction 1\nIoU 0.00"]
    np.testing.assert_allclose(above[1].images[-1].get_array(), 1 / (1 + np.exp(2)))
    assert below[0].get_title() == "open to the next layer:\n2 of 6 pixels"
    veil = below[0].images[-1].get_array()
    np.testing.assert_array_equal(veil[..., 3] > 0, closed)
