"""Every figure of the workbench, in one style that also reads in grey and with any colour vision.

Each function returns a matplotlib Figure and touches no global state: show it as a cell's last value, or save it
with `figure.savefig("name.png")`.
"""

import functools
import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"  # Okabe and Ito, 2008
SERIES = [BLUE, ORANGE, GREEN, PURPLE, SKY, "#D55E00"]
MARKERS = "oDs^vPX"
LINES = ["-", "--", "-.", ":"]
GREY = 0.82  # the canvas that stands in for a picture that may not be shown
STYLE = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "legend.fontsize": 8.5, "legend.frameon": False,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "0.9", "axes.axisbelow": True, "figure.dpi": 100, "savefig.dpi": 150,
    "image.interpolation": "nearest", "axes.prop_cycle": matplotlib.cycler(color=SERIES),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Example:
    """One expression with its truth and an answer.

    Args: image: (H,W,3) uint8, or None for a grey canvas; truth, prediction: (H,W) bool; iou: 0 to 1.
    """

    image: np.ndarray | None
    truth: np.ndarray
    prediction: np.ndarray
    text: str = ""
    iou: float | None = None


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run `draw` inside the style, lay-out included (ticks are made late and would miss it)."""

    @functools.wraps(draw)
    def wrapper(*args, **options) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **options)
            for _ in range(2):  # the first pass moves titles and labels, the second makes room for them
                figure.draw_without_rendering()
            figure.set_layout_engine("none")  # found: no need to look for it again in every drawing
            return figure

    return wrapper


def _grid(num_panels: int, num_columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    num_columns = min(num_columns, num_panels)
    num_rows = -(-num_panels // num_columns)
    figure = Figure(figsize=(width * num_columns, height * num_rows), layout="constrained")
    axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for axis in axes:
        axis.set(xticks=[], yticks=[], frame_on=False)
    return figure, axes[:num_panels]


def _write(setter: Callable, text: str) -> None:
    """Set a text that came from data: `$` stays a dollar, as sentences are no formulas."""
    setter(text).set_parse_math(False)


def _wrap(text: str, width: int = 32, num_lines: int = 3) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=num_lines, placeholder=" …"))


def _picture(axis: Axes, image: np.ndarray | None, shape: tuple[int, int], dim: float = 0.0) -> None:
    canvas = np.full((*shape, 3), GREY) if image is None else np.asarray(image) / 255
    axis.imshow(canvas * (1 - dim) + dim)


def _contour(axis: Axes, mask: np.ndarray, color: str, line: str = "-", halo: str = "white") -> None:
    if mask.any():
        height, width = mask.shape
        padded = np.pad(mask.astype(float), 1)  # so that an object at the border is outlined there too
        lines = axis.contour(
            np.arange(-1, width + 1), np.arange(-1, height + 1), padded, [0.5], colors=color, linewidths=1.6
        )
        lines.set(linestyle=line, path_effects=[withStroke(linewidth=3, foreground=halo)])
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _fill(axis: Axes, mask: np.ndarray, color: str, alpha: float) -> None:
    layer = np.zeros((*mask.shape, 4))
    layer[mask] = matplotlib.colors.to_rgba(color, alpha)
    axis.imshow(layer)


@styled
def show_masks(image: np.ndarray, masks: Sequence[np.ndarray], titles: Sequence[str], num_columns: int = 4) -> Figure:
    """The picture (H,W,3) uint8 once per mask (H,W) bool, each mask outlined and the rest faded."""
    figure, axes = _grid(len(masks), num_columns, 2.5, 2.8)
    for axis, mask, title in zip(axes, masks, titles):
        _picture(axis, image, mask.shape)
        _fill(axis, ~mask, "white", 0.65)
        _contour(axis, mask, BLUE)
        _write(axis.set_title, _wrap(title))
    return figure


def _overlay(axis: Axes, example: Example) -> None:
    _picture(axis, example.image, example.truth.shape)
    _fill(axis, example.prediction, BLUE, 0.2)
    _contour(axis, example.prediction, BLUE)
    _contour(axis, example.truth, ORANGE, "--", "black")


@styled
def prediction_grid(
    examples: Sequence[Example], num_columns: int = 4, captions: bool = True, titles: Sequence[str] | None = None
) -> Figure:
    """Truth (dashed outline) and prediction (filled) on each picture, its IoU above and its sentence below.

    titles: who answered, one a picture, beside the IoU.
    """
    figure, axes = _grid(len(examples), num_columns, 2.5, 3.1 if captions else 2.5)
    for axis, example, title in zip(axes, examples, titles or itertools.repeat("")):
        _overlay(axis, example)
        if captions:
            score = "" if example.iou is None else f"IoU {example.iou:.2f}"
            _write(axis.set_title, ", ".join(filter(None, (title, score))))
            _write(axis.set_xlabel, _wrap(example.text))
    if captions:
        _legend(figure)
    return figure


@styled
def show_answer(example: Example, competitors: Sequence[np.ndarray] = ()) -> Figure:
    """The picture alone, and with the truth (dashed), the prediction (filled) and the competitors (dotted) on it.

    Args: competitors: masks (H,W) bool of the other objects of the kind meant.
    """
    figure, (left, right) = _grid(2, 2, 3.6, 4.0)
    _picture(left, example.image, example.truth.shape)
    for mask in competitors:
        _contour(right, mask, "white", ":", "black")
    _overlay(right, example)
    left.set_title("no picture" if example.image is None else "picture")
    right.set_title("" if example.iou is None else f"IoU {example.iou:.2f}")
    figure.suptitle(_wrap(example.text, 90, 2)).set_parse_math(False)
    _legend(figure, with_competitors=bool(len(competitors)))
    return figure


def _legend(figure: Figure, with_competitors: bool = False) -> None:
    on_black = [withStroke(linewidth=3, foreground="black")]
    names = {"truth": Line2D([], [], color=ORANGE, linestyle="--", path_effects=on_black)}
    names["prediction"] = Patch(color=BLUE, alpha=0.6)
    if with_competitors:
        names["other objects of this kind"] = Line2D([], [], color="white", linestyle=":", path_effects=on_black)
    figure.legend(list(names.values()), list(names), loc="outside lower center", ncols=len(names))


def contours_on_grey(examples: Sequence[Example], num_columns: int = 4) -> Figure:
    """`prediction_grid` without the pictures, for photographs whose licence keeps them out of a repository."""
    return prediction_grid([replace(example, image=None) for example in examples], num_columns)


@styled
def attention_per_word(
    image: np.ndarray, tokens: Sequence[str], maps: np.ndarray, title: str = "", num_columns: int = 6
) -> Figure:
    """Where each token is read: one panel per token over the picture.

    Args: image: (H,W,3) uint8; maps: (h,w,T) of any resolution, the share of attention a pixel gives to each token;
        all panels share one colour scale, from 0 to the largest share.
    """
    num_tokens, (height, width) = len(tokens), image.shape[:2]
    figure, axes = _grid(num_tokens, num_columns, 1.6, 1.8)
    top = float(maps[..., :num_tokens].max())
    for index, (axis, token) in enumerate(zip(axes, tokens)):
        _picture(axis, np.repeat(image.mean(-1, keepdims=True), 3, -1), (height, width), dim=0.3)
        heat = axis.imshow(
            maps[..., index], "magma", vmin=0, vmax=top, alpha=0.65,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )  # fmt: skip
        _write(axis.set_title, token)
    figure.colorbar(heat, ax=axes, label="share of a pixel's attention", shrink=0.8)
    if title:
        figure.suptitle(title)
    return figure


@styled
def training_curves(log: Sequence[Mapping]) -> Figure:
    """Loss terms (raw and weighted), learning rate and validation scores over steps, from `run.log()`."""
    train = pd.DataFrame([line for line in log if "loss" in line]).set_index("step")
    validation = [{"step": line["step"], **line["validation"]} for line in log if "validation" in line]
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    loss, rate, scores = figure.subplots(1, 3, sharex=True)
    _losses(loss, train)
    rate.plot(train.index, train["lr"])
    rate.set(title="Learning rate", ylabel="learning rate", ylim=(0, None))
    if validation:
        _validation(scores, pd.DataFrame(validation).set_index("step"))
    scores.set(title="Validation", ylabel="IoU (%)", ylim=(0, 100))
    for axis in (loss, rate, scores):
        axis.set_xlabel("optimiser step")
    return figure


def _losses(axis: Axes, train: pd.DataFrame) -> None:
    window = max(1, len(train) // 50)  # a single batch's loss is noisy; a fiftieth of the run shows the trend
    for color, name in zip(itertools.cycle(SERIES), train["raw"].iloc[0]):
        raw, weighted = (train[kind].str[name].rolling(window, min_periods=1).mean() for kind in ("raw", "weighted"))
        label = name.replace("_", " ")
        axis.plot(raw.index, raw, color=color, label=label)
        if not np.allclose(raw, weighted):
            axis.plot(weighted.index, weighted, "--", color=color, label=f"{label}, weighted")
    num_terms = len(train["raw"].iloc[0])
    if num_terms > 1:
        axis.plot(train.index, train["loss"].rolling(window, min_periods=1).mean(), color="black", label="sum")
    axis.set(title=f"Loss (mean of {window} log lines)" if window > 1 else "Loss", ylabel="loss", ylim=(0, None))
    axis.legend()


def _validation(axis: Axes, validation: pd.DataFrame) -> None:
    for name, marker, line in zip(("oIoU", "mIoU"), MARKERS, LINES):
        axis.plot(validation.index, validation[name], line, marker=marker, label=name)
    axis.legend()


@styled
def summary_bars(
    summaries: pd.DataFrame, baselines: Mapping[str, pd.DataFrame] | None = None, metric: str = "mIoU",
    name: str = "model",
) -> Figure:  # fmt: skip
    """A metric with its 95 % interval per group (a split, an expression kind), the model beside its baselines.

    Args: summaries: one row per group, with the columns of `magnet.summarize`; baselines: such a table by name; groups
        that a baseline lacks are left out.
    """
    everyone = {name: summaries, **(baselines or {})}
    figure = Figure(figsize=(7.5, 0.9 + len(summaries) * (0.12 + 0.14 * len(everyone))), layout="constrained")
    axis = figure.subplots()
    for index, (who, scores) in enumerate(everyone.items()):
        offset = (index - (len(everyone) - 1) / 2) * 0.7 / len(everyone)
        _whiskers(axis, scores.reindex(summaries.index), metric, offset, who, index)
    ticks = [f"{group} (n = {num:,})" for group, num in summaries["n"].astype(int).items()]
    axis.set_yticks(range(len(ticks)), ticks)
    axis.grid(axis="y", visible=False)
    for between in np.arange(len(ticks) - 1) + 0.5:
        axis.axhline(between, color="0.9", linewidth=0.8)
    axis.set(xlim=(0, 100), ylim=(len(ticks) - 0.5, -0.5), xlabel=f"{metric} (%), with 95 % intervals over images")
    if baselines:
        figure.legend(loc="outside right upper")
    return figure


def _whiskers(axis: Axes, scores: pd.DataFrame, metric: str, offset: float, who: str, index: int) -> None:
    value, low, high = (scores[column].to_numpy(float) for column in (metric, f"{metric}_low", f"{metric}_high"))
    axis.errorbar(
        value, np.arange(len(scores)) + offset, xerr=np.maximum([value - low, high - value], 0), label=who,
        linestyle="none", capsize=2, linewidth=1.8 if index == 0 else 1.1, color=SERIES[index % len(SERIES)],
        marker=MARKERS[index % len(MARKERS)], markersize=7 if index == 0 else 5,
        markerfacecolor=SERIES[0] if index == 0 else "white",
    )  # fmt: skip


@styled
def difference_bars(differences: pd.DataFrame, a: str, b: str, what: str = "mIoU") -> Figure:
    """Something of a less that of b with its 95 % interval, a row of `differences` each; filled where it excludes 0.

    Args: differences: index: what the rows are about; value, low, high (points) and n (expressions).
    """
    figure = Figure(figsize=(7.5, 1.2 + 0.26 * len(differences)), layout="constrained")
    axis, place = figure.subplots(), np.arange(len(differences))
    value, low, high = (differences[column].to_numpy(float) for column in ("value", "low", "high"))
    axis.axvline(0, color="0.3", linewidth=1)
    axis.errorbar(
        value, place, xerr=np.maximum([value - low, high - value], 0), linestyle="none", capsize=2, color=BLUE,
        marker="o", markerfacecolor="white",
    )  # fmt: skip
    clear = (low > 0) | (high < 0)
    axis.plot(value[clear], place[clear], "o", color=BLUE, zorder=3)
    axis.set_yticks(place, [f"{name} (n = {num:,})" for name, num in differences["n"].items()])
    axis.set(ylim=(len(place) - 0.5, -0.5))
    _write(axis.set_xlabel, f"{what}, {a} − {b} (points), with 95 % intervals over images")
    axis.grid(axis="y", visible=False)
    return figure
