"""Figures of what the two encoders see, in the style of plots.py."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from magnet.workbench.plots import LINES, MARKERS, SERIES, _grid, _picture, _write, styled


@styled
def stage_maps(image: np.ndarray, rows: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """A picture (S,S,3) uint8 beside one image of each stage's map (C,h,w); one row of panels a backbone.

    A map is shown by its first principal component, from its smallest value (black) to its largest (white).
    """
    num_stages = len(next(iter(rows.values())))
    figure, axes = _grid(len(rows) * (1 + num_stages), 1 + num_stages, 1.55, 1.75)
    for (name, maps), first in zip(rows.items(), range(0, len(axes), 1 + num_stages)):
        _picture(axes[first], image, image.shape[:2])
        _write(axes[first].set_ylabel, name)
        for stage, (axis, x) in enumerate(zip(axes[first + 1 :], maps), 1):
            axis.imshow(_first_component(x), "gray")
            axis.set_title(f"stage {stage}\n{len(x)} × {x.shape[1]} × {x.shape[2]}")
    return figure


def _first_component(x: np.ndarray) -> np.ndarray:
    """(C,h,w) -> (h,w): each position along the direction in which positions differ most; the few stand out bright."""
    vectors = x.reshape(len(x), -1).T.astype(float)
    vectors = vectors - vectors.mean(0)
    direction = np.linalg.svd(vectors, full_matrices=False)[2][0]
    values = vectors @ direction
    return (values if (values**3).sum() > 0 else -values).reshape(x.shape[1:])


@styled
def receptive_fields(rows: Mapping[str, Sequence[np.ndarray]], sizes: Mapping[str, Sequence[int]]) -> Figure:
    """How much each input pixel moves the middle of a stage's map, one row of panels a backbone, one column a stage.

    Args: rows: gradients (S,S) from `probes.input_gradient`; sizes: sides in pixels of the squares to draw, as
        `probes.effective_size` gives them.
    """
    num_stages = len(next(iter(rows.values())))
    figure, axes = _grid(len(rows) * num_stages, num_stages, 1.75, 1.95)
    panels = iter(axes)
    scale = {"cmap": "gray", "norm": LogNorm(1e-4, 1)}
    for name, gradients in rows.items():
        for stage, (gradient, size) in enumerate(zip(gradients, sizes[name]), 1):
            axis = next(panels)
            shades = axis.imshow(np.maximum(gradient / gradient.max(), 1e-9), **scale)
            row, column = ((gradient * places).sum() for places in np.indices(gradient.shape))
            corner = column - size / 2, row - size / 2
            axis.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=SERIES[1], linewidth=1.3))
            axis.set_title(f"stage {stage}: {size} px")
            if stage == 1:
                _write(axis.set_ylabel, name)
    figure.colorbar(shades, ax=axes, label="gradient, as a share of its largest value", shrink=0.6, aspect=40)
    return figure


@styled
def probe_curves(tables: Mapping[str, pd.DataFrame], chance: Mapping[str, float]) -> Figure:
    """Accuracy of a linear probe at each stage, with its interval: one panel a question, one line a backbone.

    Args: tables: from `probes.probe_stages`, by backbone; chance: percent right of the most frequent answer.
    """
    figure = Figure(figsize=(7.6, 3.0), layout="constrained")
    panels = figure.subplots(1, len(chance), sharey=True)
    for axis, (asked, floor) in zip(panels, chance.items()):
        for index, (name, table) in enumerate(tables.items()):
            part = table[table["asked"] == asked]
            low, high = (part["accuracy"] - part["accuracy_low"], part["accuracy_high"] - part["accuracy"])
            axis.errorbar(
                part["stage"] + 0.06 * (index - (len(tables) - 1) / 2), part["accuracy"],
                yerr=np.maximum([low, high], 0), label=name, color=SERIES[index], marker=MARKERS[index],
                linestyle=LINES[index], capsize=2,
            )  # fmt: skip
        axis.axhline(floor, color="0.5", linewidth=0.9)
        axis.annotate("most frequent answer", (4.2, floor), (0, -3), textcoords="offset points", ha="right", va="top",
                      color="0.4", fontsize=8)  # fmt: skip
        stages = sorted(part["stage"].unique())
        axis.set_xticks(stages, ["pixel", *[f"stage {stage}" for stage in stages[1:]]])
        axis.set(title=f"{asked} (n = {int(part['n'].iloc[0]):,})", ylim=(0, 103))
    panels[0].set_ylabel("right on new pictures (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(tables))
    return figure


@styled
def accuracy_curves(log: pd.DataFrame, columns: Sequence[str]) -> Figure:
    """Percent right over training steps, a line a column, each the mean of a thirtieth of the steps."""
    figure = Figure(figsize=(4.6, 2.7), layout="constrained")
    axis = figure.subplots()
    window = max(1, len(log) // 30)
    for index, name in enumerate(columns):
        axis.plot(log["step"], log[name].rolling(window, min_periods=1).mean(), LINES[index], label=name)
    axis.set(xlabel="optimiser step", ylabel="right in the step's batch (%)", ylim=(0, 103))
    axis.legend()
    return figure


@styled
def word_strips(rows: Sequence[tuple[Sequence[str], Sequence[float]]], label: str) -> Figure:
    """Sentences as strips of words, each word on a shade of blue: white is 0, the darkest is 1.

    Args: rows: for every sentence its words and one value from 0 to 1 for each; label: what the shade means.
    """
    figure = Figure(figsize=(8.2, 0.42 * len(rows) + 0.75), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(0, 1), ylim=(len(rows), -0.1), xticks=[], yticks=[], frame_on=False)
    widest = max(sum(len(word) + 2 for word in words) for words, _ in rows)
    shades = axis.imshow([[0.0]], "Blues", vmin=0, vmax=1.35, extent=(0, 0, 0, 0), aspect="auto")
    for row, (words, values) in enumerate(rows):
        left = 0.0
        for word, value in zip(words, values):
            width = (len(word) + 2) / widest
            axis.add_patch(Rectangle((left, row), width * 0.96, 0.8, color=shades.to_rgba(value)))
            said = axis.text(left + 0.48 * width, row + 0.42, word, ha="center", va="center", parse_math=False)
            said.set_color("black" if value < 0.75 else "white")
            left += width
    axis.set(xlim=(0, 1), ylim=(len(rows), -0.1))
    bar = figure.colorbar(shades, ax=axis, orientation="horizontal", fraction=0.08, pad=0.02, aspect=40, label=label)
    bar.ax.set_xlim(0, 1)
    return figure


@styled
def vector_scatter(panels: Mapping[str, np.ndarray], labels: Sequence[str]) -> Figure:
    """Word vectors (N,D) along their two main directions, one panel a stage of reading, one mark a label (N,)."""
    figure = Figure(figsize=(2.7 * len(panels), 3.0), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, vectors) in zip(axes, panels.items()):
        centred = vectors - vectors.mean(0)
        points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        for index, label in enumerate(dict.fromkeys(labels)):
            x, y = points[np.asarray(labels) == label].T
            axis.scatter(x, y, 22, SERIES[index], marker=MARKERS[index], label=f"{label} (n = {len(x)})", alpha=0.7)
        axis.set(title=name, xlabel="first direction", ylabel="second direction" if axis is axes[0] else "")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(set(labels)))
    return figure
