"""The figures of a study: every effect with both of its intervals and the seeds behind it, parts beside each other, and
runs side by side while they train."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from magnet.workbench.plots import BLUE, LINES, MARKERS, ORANGE, SERIES, _wrap, _write, styled

LABELS = {
    "seed": "interval over seeds (t, Holm)", "image": "interval over images (bootstrap)", "each": "one seed",
}  # fmt: skip


@styled
def effect_forest(effects: pd.DataFrame, title: str) -> Figure:
    """A panel for each split, a row for each contrast; the verdict stands above it where both intervals leave 0 out.
    Intervals over so few seeds that nothing could be seen beside them are cut; arrows say that they go on.

    Args: effects: rows of `verdicts.effect_table` of one score, whose name the axis carries.
    """
    splits = effects["split"].unique()
    names = effects["contrast"].unique()
    figure = Figure(figsize=(2.4 + 2.7 * len(splits), 1.5 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(splits), sharex=True, sharey=True, squeeze=False)[0]
    for axis, split in zip(axes, splits):
        rows = effects[effects["split"] == split].set_index("contrast").loc[names]
        _panel(axis, rows)
        _cut(axis, rows, _reach(effects))
        axis.set(xlabel=f"{rows['score'].iloc[0]}, difference (points)")
        axis.set_title(f"{split}, n = {rows['expressions'].iloc[0]:,} in {rows['images'].iloc[0]:,} images")
    first = effects[effects["split"] == splits[0]].set_index("contrast").loc[names]
    axes[0].set_yticks(range(len(names)), [f"{name} ({num} seeds)" for name, num in first["seeds"].items()])
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    _write(figure.suptitle, title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _panel(axis: Axes, rows: pd.DataFrame) -> None:
    place = np.arange(len(rows))
    axis.axvline(0, color="0.3", linewidth=1)
    looks = {"seed": (BLUE, "o", "-", -0.14, 2.2), "image": (ORANGE, "s", "--", 0.14, 1.4)}
    for name, (color, marker, line, offset, width) in looks.items():
        middle, low, high = (rows[c].to_numpy(float) for c in ("difference", f"{name}_low", f"{name}_high"))
        drawn = axis.errorbar(
            middle, place + offset, xerr=np.maximum([middle - low, high - middle], 0), linestyle="none", marker=marker,
            markersize=4.5, color=color, linewidth=width, capsize=2.5, label=LABELS[name],
        )  # fmt: skip
        drawn.lines[2][0].set_linestyle(line)
    each = [(float(value), i) for i, values in enumerate(rows["per_seed"]) for value in values.split()]
    axis.scatter(
        [value for value, _ in each], [i for _, i in each], s=14, facecolors="none", edgecolors="0.35",
        linewidths=0.8, label=LABELS["each"], zorder=3,
    )  # fmt: skip
    for i, said in enumerate(rows["verdict"]):
        if said.startswith(("helps", "hurts")):
            axis.annotate(said, (1, i - 0.3), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=8)
    axis.grid(axis="y", visible=False)


def _reach(effects: pd.DataFrame) -> float:
    """How far the axis goes to either side, infinite where all fits."""
    each = np.abs([float(value) for values in effects["per_seed"] for value in values.split()])
    found = np.nanmax([*each, *effects[["image_low", "image_high"]].abs().max()], initial=0)
    return 2 * found if effects[["seed_low", "seed_high"]].abs().max().max() > 4 * found else np.inf


def _cut(axis: Axes, rows: pd.DataFrame, reach: float) -> None:
    if np.isinf(reach):
        return
    axis.set_xlim(-reach, reach)
    for end, side, marker in (("seed_low", -1, "<"), ("seed_high", 1, ">")):
        beyond = np.flatnonzero(side * rows[end] > reach)
        axis.scatter(np.full(len(beyond), side * reach), beyond - 0.14, s=40, marker=marker, color=BLUE, clip_on=False)


@styled
def beside_others(differences: pd.DataFrame, title: str) -> Figure:
    """A panel a part: what it adds beside each setting of the others, a dot a seed and a bar their mean, and dashed the
    mean of all, its main effect. Where parts add up, the bars stand at one height.

    Args: differences: from `verdicts.simple_effects`, points.
    """
    parts = differences["part"].unique()
    figure = Figure(figsize=(1 + 2.9 * len(parts), 3.2), layout="constrained")
    for axis, part in zip(figure.subplots(1, len(parts), sharey=True, squeeze=False)[0], parts):
        rows = differences[differences["part"] == part]
        beside = rows["beside"].unique()
        place = rows["beside"].map({name: i for i, name in enumerate(beside)})
        means = rows.groupby("beside")["difference"].mean().loc[beside]
        axis.axhline(0, color="0.3", linewidth=1)
        axis.axhline(means.mean(), color=BLUE, linestyle="--", linewidth=1, label="mean of all: main effect")
        axis.scatter(place, rows["difference"], s=16, facecolors="none", edgecolors="0.35", label="one seed")
        axis.hlines(means, np.arange(len(means)) - 0.3, np.arange(len(means)) + 0.3, colors=BLUE, linewidth=2.4,
                    label="mean over seeds")  # fmt: skip
        axis.set_xticks(range(len(beside)), [_wrap(name, 10, 5) for name in beside])
        axis.set(title=f"{part} beside", xlim=(-0.6, len(beside) - 0.4))
        axis.grid(axis="x", visible=False)
    first = figure.axes[0]
    first.set(ylabel="oIoU, difference (points)")
    _write(figure.suptitle, title)
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def learning_curves(logs: Mapping[str, Sequence[Mapping]], terms: Sequence[str], window: int = 5) -> Figure:
    """Runs side by side: the sum of the loss terms that all of them have, and mIoU at each validation.

    Args: logs: name -> `run.log()`; terms: names of raw losses; window: mean over so many log lines.
    """
    figure = Figure(figsize=(8.5, 3), layout="constrained")
    loss, score = figure.subplots(1, 2)
    for i, (name, log) in enumerate(logs.items()):
        look = {"color": SERIES[i % len(SERIES)], "linestyle": LINES[i % len(LINES)], "label": name}
        steps = pd.Series({line["step"]: sum(line["raw"][term] for term in terms) for line in log if "loss" in line})
        loss.plot(steps.rolling(window, min_periods=1).mean(), **look)
        checks = pd.Series({line["step"]: line["validation"]["mIoU"] for line in log if "validation" in line})
        score.plot(checks, marker=MARKERS[i % len(MARKERS)], markersize=5, **look)
    loss.set(title=f"{' + '.join(terms)}, mean of {window} log lines", xlabel="optimiser step", ylabel="loss")
    loss.set_ylim(0)
    score.set(title="Validation", xlabel="optimiser step", ylabel="mIoU (%)")
    score.set_ylim(0)
    figure.legend(*score.get_legend_handles_labels(), loc="outside lower center", ncols=len(logs))
    return figure
