"""Figures of MagNet's insides: what reads what at every scale, where one pixel looks, predictions layer by layer."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from magnet.metrics import intersection_union
from magnet.workbench.plots import MARKERS, ORANGE, SERIES, SKY, _contour, _picture, _write, styled

HALO = [withStroke(linewidth=2.5, foreground="black")]


@styled
def attention_rows(
    image: np.ndarray,
    tokens: Sequence[str],
    rows: Mapping[str, np.ndarray],
    label: str = "share of a pixel's attention",
) -> Figure:
    """Attention maps in a grid: a row each (a scale, a stage, before and after), a column for each token.

    Args: image: (H,W,3) uint8; rows: by name (h,w,T) of any resolution; all panels share one colour scale from 0.
        label: what the colours count.
    """
    figure = Figure(figsize=(1.0 + 0.9 * len(tokens), 0.4 + 0.87 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(tokens), squeeze=False)
    top = max(float(maps[..., : len(tokens)].max()) for maps in rows.values())
    for line, (name, maps) in zip(axes, rows.items()):
        for index, axis in enumerate(line):
            heat = _heat(axis, image, maps[..., index], top)
        line[0].set_ylabel(name)
    for axis, token in zip(axes[0], tokens):
        _write(axis.set_title, token)
    figure.colorbar(heat, ax=list(axes.flat), label=label, shrink=min(1.0, 1.6 / len(rows)), aspect=12)
    return figure


def _heat(axis: Axes, image: np.ndarray, values: np.ndarray, top: float):
    height, width = image.shape[:2]
    axis.set(xticks=[], yticks=[], frame_on=False)
    _picture(axis, np.repeat(image.mean(-1, keepdims=True), 3, -1), (height, width), dim=0.3)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    return axis.imshow(values, "magma", vmin=0, vmax=top, alpha=0.65, extent=extent)


@styled
def sampling_points(
    image: np.ndarray, truth: np.ndarray, place: tuple[float, float], position: np.ndarray, weights: np.ndarray,
    sizes: Sequence[tuple[int, int]],
) -> Figure:  # fmt: skip
    """Where one query of deformable attention reads: a panel per scale with that scale's pixels as a grid.

    Args: image: (H,W,3) uint8; truth: (H,W) bool; place: x and y of the query, 0 to 1; position:
        (heads,scales,points,2) and weights: (heads,scales,points) as `DeformableAttention.sampling` gives them for
        it; sizes: (h,w) of every scale. A marker is a head, its area the weight. Points outside get no marker.
    """
    figure = Figure(figsize=(2.6 * len(sizes), 3.0), layout="constrained")
    height, width = image.shape[:2]
    for scale, (axis, size) in enumerate(zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes)):
        _pixel_grid(axis, image, size)
        _contour(axis, truth, ORANGE, "--", "black")
        centres = (position[:, scale] + 0.5) / np.array([size[1], size[0]]) * [width, height] - 0.5
        for head, (points, shares) in enumerate(zip(centres, weights[:, scale])):
            axis.scatter(
                *points.T, s=15 + 600 * shares, marker=MARKERS[head % len(MARKERS)], color=SERIES[head % len(SERIES)],
                alpha=0.85, edgecolor="white", linewidth=1.2,
            )  # fmt: skip
        axis.plot(place[0] * width - 0.5, place[1] * height - 0.5, "+", color="white", markersize=11, path_effects=HALO)
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axis.set_title(f"{size[0]} × {size[1]} pixels: {100 * weights[:, scale].sum() / len(weights):.0f} %")
    _name_heads(figure, len(weights))
    return figure


def _pixel_grid(axis: Axes, image: np.ndarray, size: tuple[int, int]) -> None:
    height, width = image.shape[:2]
    _picture(axis, image, (height, width), dim=0.35)
    axis.set(
        xticks=np.arange(size[1] + 1) * width / size[1] - 0.5, yticks=np.arange(size[0] + 1) * height / size[0] - 0.5
    )
    axis.grid(color="0.35", linewidth=0.4)
    axis.tick_params(length=0, labelbottom=False, labelleft=False)


def _name_heads(figure: Figure, num_heads: int) -> None:
    style = {"linestyle": "none", "markeredgecolor": "white", "markersize": 8}
    heads = [
        Line2D([], [], marker=MARKERS[i % len(MARKERS)], color=SERIES[i % len(SERIES)], **style)
        for i in range(num_heads)
    ]
    query = Line2D([], [], marker="+", color="white", linestyle="none", markersize=11, path_effects=HALO)
    names = ["the query", *(f"head {index + 1}" for index in range(num_heads))]
    figure.legend([query, *heads], names, loc="outside lower center", ncols=num_heads + 1)


@styled
def predictions_in_order(
    image: np.ndarray, truth: np.ndarray, logits: np.ndarray, blocked: Sequence[np.ndarray]
) -> Figure:
    """Every prediction of the query decoder, and below it where the next layer may look.

    Args: image: (H,W,3) uint8; truth: (H,W) bool; logits: (P,H,W) at the picture's own size, drawn as probabilities;
        blocked: for each of the P - 1 layers (h_i,w_i) bool.
    """
    figure = Figure(figsize=(0.6 + 2.0 * len(logits), 4.7), layout="constrained")
    axes = figure.subplots(2, len(logits), squeeze=False)
    for index, (axis, values) in enumerate(zip(axes[0], logits)):
        heat = _heat(axis, image, 1 / (1 + np.exp(-values)), 1.0)
        inside, either = intersection_union(values > 0, truth)
        axis.set_title(f"prediction {index}\nIoU {inside / either:.2f}")
        _contour(axis, values > 0, SKY)
        _contour(axis, truth, ORANGE, "--", "black")
    for axis, closed in zip(axes[1], blocked):
        _open_pixels(axis, image, closed)
        _contour(axis, truth, ORANGE, "--", "black")
        axis.set_title(f"open to the next layer:\n{(~closed).sum()} of {closed.size} pixels")
    axes[1, -1].set_axis_off()
    figure.colorbar(heat, ax=list(axes[0]), label="probability", shrink=0.9, aspect=12)
    return figure


def _open_pixels(axis: Axes, image: np.ndarray, closed: np.ndarray) -> None:
    height, width = image.shape[:2]
    axis.set(xticks=[], yticks=[], frame_on=False)
    _picture(axis, image, (height, width))
    veil = np.zeros((*closed.shape, 4))
    veil[closed] = (0, 0, 0, 0.75)
    axis.imshow(veil, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
