"""The figures: they hold what they were given, and nothing in the data can break them."""

import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest

from magnet.workbench import plots

IMAGE = np.full((20, 30, 3), 120, np.uint8)
MASK = np.zeros((20, 30), bool)
MASK[5:12, 8:20] = True
HOSTILE = r"the $\frac{ cup ^^ <script>"


def texts(figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in (axis.title, axis.xaxis.label)]


def pixels(figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def example(**changes) -> plots.Example:
    return plots.Example(**{"image": IMAGE, "truth": MASK, "prediction": MASK, "text": "a cup", "iou": 0.5} | changes)


def test_prediction_grid_shows_sentence_and_score():
    figure = plots.prediction_grid([example(text="a cup", iou=0.456), example(text="a mug", iou=None)])
    assert {"a cup", "a mug", "IoU 0.46"} <= set(texts(figure))


def test_captions_overlap_nothing_and_stay_inside():
    long = "the small blue disc to the right of the large red disc below the green one and some more words"
    square = {"image": None, "truth": np.eye(30, dtype=bool), "prediction": np.eye(30, dtype=bool)}
    figure = plots.prediction_grid([example(text=text, **square) for text in [long, "short"] * 3])
    words = [text for axis in figure.axes for text in (axis.title, axis.xaxis.label) if text.get_text()]
    boxes = [part.get_window_extent() for part in (*words, *figure.legends)]
    assert len(boxes) == 13
    assert all(figure.bbox.x0 <= b.x0 and b.x1 <= figure.bbox.x1 and b.y1 <= figure.bbox.y1 for b in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("mask", [np.zeros_like(MASK), np.ones_like(MASK)], ids=["empty", "full"])
def test_masks_without_an_outline_are_drawn(mask):
    pixels(plots.prediction_grid([example(truth=mask, prediction=mask)]))


def test_sentences_are_no_formulas():
    figure = plots.prediction_grid([example(text=HOSTILE)])
    pixels(figure)
    assert HOSTILE in texts(figure)
    pixels(plots.show_masks(IMAGE, [MASK], [HOSTILE]))
    pixels(plots.attention_per_word(IMAGE, [HOSTILE], np.ones((4, 6, 1))))


def test_contours_on_grey_hold_nothing_of_the_photograph():
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    shown = [pixels(plots.contours_on_grey([example(image=image)])) for image in (noise, 255 - noise)]
    assert (shown[0] == shown[1]).all()
    assert (pixels(plots.prediction_grid([example(image=noise)])) != shown[0]).any()


def test_attention_panels_share_one_scale():
    maps = np.zeros((4, 6, 3))
    maps[..., 1] = 0.7
    figure = plots.attention_per_word(IMAGE, ["[CLS]", "cup"], maps)
    limits = {axis.images[1].get_clim() for axis in figure.axes if len(axis.images) == 2}
    assert limits == {(0, 0.7)}


def log_line(step: int, raw: dict, weights: dict) -> dict:
    weighted = {name: raw[name] * weights[name] for name in raw}
    return {"step": step, "lr": 0.1 / step, "loss": sum(weighted.values()), "raw": raw, "weighted": weighted}


def test_training_curves_draw_every_term_once():
    weights = {"cross_entropy": 1.0, "dice": 0.5}
    log = [log_line(step, {"cross_entropy": 1 / step, "dice": 2 / step}, weights) for step in range(1, 6)]
    log += [{"step": 5, "validation": {"oIoU": 40.0, "mIoU": 30.0}}]
    loss, rate, scores = plots.training_curves(log).axes
    lines = {line.get_label(): line.get_ydata() for line in loss.lines}
    assert set(lines) == {"cross entropy", "dice", "dice, weighted", "sum"}
    np.testing.assert_allclose(lines["sum"], lines["cross entropy"] + lines["dice, weighted"])
    np.testing.assert_allclose(rate.lines[0].get_ydata(), [0.1 / step for step in range(1, 6)])
    assert {line.get_label(): line.get_ydata()[0] for line in scores.lines} == {"oIoU": 40, "mIoU": 30}


def test_training_curves_of_a_run_that_was_not_validated_yet():
    pixels(plots.training_curves([log_line(1, {"cross_entropy": 0.7}, {"cross_entropy": 1.0})]))


def summaries(**values) -> pd.DataFrame:
    rows = {group: {"mIoU": v, "mIoU_low": v - 3, "mIoU_high": v + 4, "n": 1200} for group, v in values.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def test_summary_bars_place_values_intervals_and_counts():
    figure = plots.summary_bars(summaries(val=50.0, testA=60.0), {"random": summaries(testA=10.0)}, name="LAVT")
    axis = figure.axes[0]
    model, random = axis.containers
    np.testing.assert_allclose(model.lines[0].get_xdata(), [50, 60])
    np.testing.assert_allclose(random.lines[0].get_xdata(), [np.nan, 10])
    (segments,) = model.lines[2]
    assert [tuple(ends[:, 0]) for ends in segments.get_segments()] == [(47, 54), (57, 64)]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["val (n = 1,200)", "testA (n = 1,200)"]


def test_style_does_not_leak():
    before = {name: matplotlib.rcParams[name] for name in plots.STYLE}
    assert before != {**before, **plots.STYLE}
    plots.prediction_grid([example()])
    assert before == {name: matplotlib.rcParams[name] for name in plots.STYLE}
