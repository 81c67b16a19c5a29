"""Figures about the training-only losses: Mask Grounding and the alignment losses. Style and rules as in plots.py."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from magnet.workbench.plots import (
    BLUE,
    LINES,
    MARKERS,
    ORANGE,
    SERIES,
    _contour,
    _grid,
    _picture,
    _wrap,
    _write,
    styled,
)

NAMES = {  # of the predictors' contexts
    "text": "text", "image": "text + image", "mask": "text + image + mask",
    "other mask": "text + image + another picture's mask",
}  # fmt: skip
SHADES, HATCHES = ("0.9", "#9CCBE8", BLUE, "white"), ("", "//", "", "xx")


@styled
def mask_places(image: np.ndarray, mask: np.ndarray, described: Sequence[float], grid: tuple[int, int]) -> Figure:
    """What the mask encoders are told of a mask: its centre (a cross) and its box, over the stage-4 positions (lines).

    Args: image (H,W,3) uint8; mask (H,W) bool; described: a row of `describe_masks`; grid: rows, columns of the
        positions.
    """
    figure, (axis,) = _grid(1, 1, 3.6, 3.3)
    height, width = mask.shape
    _picture(axis, image, mask.shape, dim=0.35)
    for number, length, draw in ((grid[0], height, axis.axhline), (grid[1], width, axis.axvline)):
        for line in np.arange(1, number) * length / number - 0.5:
            draw(line, color="black", linewidth=0.8, linestyle=":")
    _contour(axis, mask, BLUE)
    x, y, x0, y0, x1, y1 = [(value + 1) / 2 * side - 0.5 for value, side in zip(described, (width, height) * 3)]
    axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=ORANGE, linestyle="--", linewidth=1.6))
    axis.plot(x, y, "+", color="black", markersize=14, markeredgewidth=4)
    axis.plot(x, y, "+", color="white", markersize=12, markeredgewidth=1.8)
    axis.set_title(f"cross: centre; dashed: box; dotted: {grid[0]} × {grid[1]} positions")
    return figure


@styled
def loss_lines(losses: pd.DataFrame, window: int = 10) -> Figure:
    """The loss of each context's predictor over training steps, as a running mean over `window` steps."""
    figure = Figure(figsize=(6, 2.9), layout="constrained")
    axis = figure.subplots()
    for index, (name, column) in enumerate(losses.items()):
        smooth = column.rolling(window, min_periods=1).mean()
        axis.plot(np.arange(1, len(smooth) + 1), smooth, LINES[index], color=SERIES[index], label=NAMES[name])
    axis.set(xlabel="optimiser step", ylabel="cross-entropy of hidden words (nats)", ylim=(0, None),
             title=f"Mean of {window} steps")  # fmt: skip
    axis.legend()
    return figure


@styled
def guess_bars(summaries: Mapping[str, pd.DataFrame]) -> Figure:
    """How many hidden words each context finds, with 95 % intervals, per group of words.

    Args: summaries: group -> `summarize_guesses`; rows that are no context are left out.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axis = figure.subplots()
    contexts = [name for name in NAMES if name in next(iter(summaries.values())).index]
    width = 0.8 / len(contexts)
    for index, context in enumerate(contexts):
        rows = pd.DataFrame({group: summary.loc[context] for group, summary in summaries.items()}).T
        errors = np.maximum([rows["value"] - rows["low"], rows["high"] - rows["value"]], 0)
        place = np.arange(len(rows)) + (index - (len(contexts) - 1) / 2) * width
        axis.bar(place, rows["value"], width, yerr=errors, capsize=2, label=NAMES[context], color=SHADES[index],
                 edgecolor="black", linewidth=0.6, hatch=HATCHES[index])  # fmt: skip
    labels = [f"{group}\nn = {int(summary['n'].iloc[0]):,}" for group, summary in summaries.items()]
    axis.set_xticks(range(len(labels)), labels)
    axis.grid(axis="x", visible=False)
    axis.set(ylabel="hidden words found (%)", ylim=(0, 100))
    figure.legend(loc="outside upper center", ncols=len(contexts))
    return figure


@styled
def similarity_matrix(similarity: np.ndarray, num_own: int) -> Figure:
    """Cosines (S,S) of sampled positions, the object's `num_own` first."""
    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    axis = figure.subplots()
    heat = axis.imshow(similarity, "cividis", vmin=-1, vmax=1)
    for draw in (axis.axhline, axis.axvline):
        draw(num_own - 0.5, color="white", linewidth=2)
    middles = [num_own / 2 - 0.5, (num_own + len(similarity)) / 2 - 0.5]
    axis.set_xticks(middles, ["object", "others"])
    axis.set_yticks(middles, ["object", "others"], rotation=90, va="center")
    axis.grid(False)
    axis.set_title(f"{num_own} positions of the object, {len(similarity) - num_own} others")
    figure.colorbar(heat, ax=axis, label="cosine of two positions")
    return figure


@styled
def similarity_maps(image: np.ndarray, truth: np.ndarray, maps: Mapping[str, np.ndarray], sentence: str = "") -> Figure:
    """The picture, then per state how similar each position (h,w) is to the sentence; the most similar one marked.

    Each panel has its own colour scale, from its least to its most similar position: the ranking is what counts.
    """
    figure, axes = _grid(len(maps) + 1, 4, 2.5, 2.9)
    height, width = truth.shape
    _picture(axes[0], image, truth.shape)
    _write(axes[0].set_title, _wrap(sentence, 30))
    for axis, (name, values) in zip(axes[1:], maps.items()):
        axis.imshow(values, "cividis", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        row, column = np.unravel_index(values.argmax(), values.shape)
        y, x = (row + 0.5) * height / values.shape[0] - 0.5, (column + 0.5) * width / values.shape[1] - 0.5
        axis.plot(x, y, "o", color="white", markeredgecolor="black", markersize=8)
        _write(axis.set_title, _wrap(f"{name}: {values.min():.2f} to {values.max():.2f}", 26))
    for axis in axes:
        _contour(axis, truth, ORANGE, "--", "black")
    return figure


@styled
def embedding_planes(planes: Mapping[str, pd.DataFrame]) -> Figure:
    """Per state its points in their principal plane, from `principal_plane`: the object, others, sentences."""
    figure = Figure(figsize=(3.1 * len(planes), 3.4), layout="constrained")
    axes = figure.subplots(1, len(planes), squeeze=False)[0]
    for axis, (name, points) in zip(axes, planes.items()):
        _points(axis, points)
        _write(axis.set_title, _wrap(f"{name}", 30))
        axis.set(xlabel=f"first axis ({100 * points.attrs['explained']:.0f} % of variance in both)")
    axes[0].set(ylabel="second axis")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _points(axis: Axes, points: pd.DataFrame) -> None:
    looks = {"others": ("0.6", "."), "object": (BLUE, "o"), "sentence": (ORANGE, "^")}
    for kind, (color, marker) in looks.items():
        some = points[points["kind"] == kind]
        axis.scatter(some["x"], some["y"], s=14, color=color, marker=marker, alpha=0.6, label=kind, linewidths=0)
    axis.set_aspect("equal", "datalim")
    axis.locator_params(nbins=5)  # with a wide range more of them run into each other


@styled
def measure_dots(table: pd.DataFrame, measures: Sequence[str]) -> Figure:
    """Measures of `embeddings.measure` with their 95 % intervals, one panel each, one row per state."""
    figure = Figure(figsize=(3.2 * len(measures), 2.4), layout="constrained")
    states = list(dict.fromkeys(table["state"]))
    for axis, name in zip(figure.subplots(1, len(measures), sharey=True, squeeze=False)[0], measures):
        rows = table[table["measure"] == name].set_index("state").loc[states]
        errors = np.maximum([rows["value"] - rows["low"], rows["high"] - rows["value"]], 0)
        for index, state in enumerate(states):
            axis.errorbar(rows.at[state, "value"], index, xerr=errors[:, [index]], color=SERIES[index],
                          marker=MARKERS[index], capsize=3, linestyle="none", markersize=7)  # fmt: skip
        axis.set(xlim=(0, 100) if name.endswith("(%)") else None, xlabel=name)
        axis.set_yticks(range(len(states)), states)
        axis.set_ylim(len(states) - 0.5, -0.5)
    return figure
