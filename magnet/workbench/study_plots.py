"""The figure of a study: every effect with both of its intervals and the seeds behind it."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from magnet.workbench.plots import BLUE, ORANGE, _write, styled

LABELS = {
    "seed": "interval over seeds (t, Holm)", "image": "interval over images (bootstrap)", "each": "one seed",
}  # fmt: skip


@styled
def effect_forest(effects: pd.DataFrame, title: str) -> Figure:
    """A panel for each split, a row for each contrast; the verdict stands above it where both intervals leave 0 out.

    Args: effects: rows of `verdicts.effect_table` of one score, whose name the axis carries.
    """
    splits = effects["split"].unique()
    names = effects["contrast"].unique()
    figure = Figure(figsize=(2.4 + 2.7 * len(splits), 1.5 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(splits), sharex=True, sharey=True, squeeze=False)[0]
    for axis, split in zip(axes, splits):
        rows = effects[effects["split"] == split].set_index("contrast").loc[names]
        _panel(axis, rows)
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
        if said in ("helps", "hurts"):
            axis.annotate(said, (1, i - 0.3), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=8)
    axis.grid(axis="y", visible=False)
