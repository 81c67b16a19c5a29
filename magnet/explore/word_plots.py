"""Figures of what single words do, in the style of plots.py."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from magnet.metrics import rle_decode
from magnet.workbench.plots import BLUE, ORANGE, _contour, _fill, _picture, _wrap, _write, styled

MARKS = {"hidden": (BLUE, "o"), "removed": (ORANGE, "D")}
MEASURES = {"same": "IoU with the whole\nsentence's mask", "iou": "IoU with the truth"}


@styled
def occlusion_figure(image: np.ndarray, table: pd.DataFrame) -> Figure:
    """What each word does, from `occlude`: the whole sentence's mask, that of the variant which changes it most, and
    every word's IoU hidden and removed. image: (H,W,3) uint8."""
    words = table[table["way"] != "whole"]
    measures = [name for name in MEASURES if words[name].notna().any()]
    height = max(2.7, 1.1 + 0.21 * words["position"].nunique())
    figure = Figure(figsize=(4.8 + 2.3 * len(measures), height), layout="constrained")
    whole, changed, *axes = figure.subplots(1, 2 + len(measures), width_ratios=[1.2, 1.2, *[1] * len(measures)])
    most = words.loc[words["same"].idxmin()]
    _answer(whole, image, table.iloc[0]["rle"], f"whole: {table.iloc[0]['text']}")
    _answer(changed, image, most["rle"], f"most changed: {most['text']}")
    for axis, name in zip(axes, measures):
        _dots(axis, words, name, table.iloc[0][name])
        axis.tick_params(labelleft=axis is axes[0])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=3)
    return figure


def _answer(axis: Axes, image: np.ndarray, rle: str, title: str) -> None:
    mask = rle_decode(rle, *image.shape[:2])
    axis.set(xticks=[], yticks=[], frame_on=False)
    _picture(axis, image, mask.shape)
    _fill(axis, ~mask, "white", 0.65)
    _contour(axis, mask, BLUE)
    _write(axis.set_title, _wrap(title, 28))


def _dots(axis: Axes, words: pd.DataFrame, name: str, whole: float) -> None:
    for way, (color, marker) in MARKS.items():
        rows = words[words["way"] == way]
        face = color if way == "hidden" else "none"  # or it would cover the other
        axis.plot(rows[name], rows["position"], marker, color=color, markerfacecolor=face, label=way, clip_on=False)
    axis.axvline(whole, color="0.4", linewidth=0.9, linestyle="--", label="whole sentence")
    spoken = words.drop_duplicates("position")
    ticks = axis.set_yticks(spoken["position"], spoken["word"])
    for tick in ticks:
        tick.label1.set_parse_math(False)
    axis.set(xlim=(0, 1), xticks=(0, 0.5, 1), ylim=(len(spoken) - 0.5, -0.5), xlabel=MEASURES[name])
