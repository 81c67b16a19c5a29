"""The encoders' figures show the numbers they were given."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from magnet.workbench import encoder_plots


def test_a_map_is_shown_along_its_main_direction():
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=(6, 6))
    x = 5 * pattern * np.array([0.6, -0.8, 0.0])[:, None, None] + 0.01 * rng.normal(size=(3, 6, 6)) + 7
    figure = encoder_plots.stage_maps(np.zeros((24, 24, 3), np.uint8), {"one": [x, x[:, :3, :3]]})
    shown = np.asarray(figure.axes[1].images[0].get_array())
    assert abs(np.corrcoef(shown.ravel(), pattern.ravel())[0, 1]) > 0.999
    assert [axis.get_title() for axis in figure.axes[1:]] == ["stage 1\n3 × 6 × 6", "stage 2\n3 × 3 × 3"]


def test_squares_stand_around_the_middle_of_the_gradient():
    gradient = np.zeros((20, 20))
    gradient[4:7, 10:13] = 1 / 9
    figure = encoder_plots.receptive_fields({"a": [gradient]}, {"a": [3]})
    (square,) = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert square.get_xy() == pytest.approx((9.5, 3.5)) and square.get_width() == 3


def table(shift: float) -> pd.DataFrame:
    rows = [(asked, stage, 50 + shift + stage, 45, 70, 9) for asked in ("colour", "shape") for stage in range(3)]
    return pd.DataFrame(rows, columns=["asked", "stage", "accuracy", "accuracy_low", "accuracy_high", "n"])


def test_probe_curves_hold_every_stage_and_interval():
    figure = encoder_plots.probe_curves({"a": table(0), "b": table(10)}, {"colour": 12, "shape": 15})
    for axis in figure.axes:
        first, second = axis.containers
        np.testing.assert_allclose(first.lines[0].get_ydata().astype(float), [50, 51, 52])
        np.testing.assert_allclose(second.lines[0].get_ydata().astype(float), [60, 61, 62])
        (bars,) = first.lines[2]
        assert [tuple(ends[:, 1]) for ends in bars.get_segments()] == [(45, 70)] * 3
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["pixel", "stage 1", "stage 2"]


def test_darker_words_have_higher_values():
    rows = [(["a", "$word"], [0.1, 0.9]), (["b"], [0.5])]
    axis = encoder_plots.word_strips(rows, "probability").axes[0]
    assert [text.get_text() for text in axis.texts] == ["a", "$word", "b"]
    light = [sum(to_rgba(patch.get_facecolor())[:3]) for patch in axis.patches]
    assert light[0] > light[2] > light[1]


def test_scatter_shows_every_vector_once():
    vectors = np.random.default_rng(0).normal(size=(12, 5))
    labels = ["left of"] * 4 + ["from the left"] * 8
    figure = encoder_plots.vector_scatter({"before": vectors, "after": 2 * vectors}, labels)
    for axis in figure.axes:
        assert [len(dots.get_offsets()) for dots in axis.collections] == [4, 8]
    spread = [np.concatenate([dots.get_offsets() for dots in axis.collections]).std() for axis in figure.axes]
    assert spread[1] == pytest.approx(2 * spread[0])


def test_curves_average_neighbouring_steps():
    log = pd.DataFrame({"step": np.arange(1, 61), "colour": np.tile([0.0, 100.0], 30)})
    (line,) = encoder_plots.accuracy_curves(log, ["colour"]).axes[0].lines
    np.testing.assert_allclose(line.get_ydata()[1:], 50)
