"""Figures of many answers at once, in the style of plots.py."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from magnet.workbench.errors import KINDS
from magnet.workbench.plots import GREY, MARKERS, SERIES, styled


@styled
def share_bars(tables: Mapping[str, pd.DataFrame], xlabel: str, ylabel: str = "") -> Figure:
    """Values with their 95 % intervals, a row a name and a mark a table.

    Args: tables: each with value, low, high and n by name. n stands in the legend where all of a table's rows have the
        same, behind the names where all tables have.
    """
    names = list(next(iter(tables.values())).index)
    figure = Figure(figsize=(7.5, 1.1 + len(names) * (0.14 + 0.13 * len(tables))), layout="constrained")
    axis, place = figure.subplots(), np.arange(len(names))
    for index, (who, table) in enumerate(tables.items()):
        value, low, high = (table.loc[names, column].to_numpy(float) for column in ("value", "low", "high"))
        axis.errorbar(
            value, place + (index - (len(tables) - 1) / 2) * 0.7 / len(tables), linestyle="none", capsize=2,
            xerr=np.maximum([value - low, high - value], 0), color=SERIES[index], marker=MARKERS[index],
            markerfacecolor=SERIES[index] if index == 0 else "white", label=_counted(who, table), clip_on=False,
        )  # fmt: skip
    axis.set_yticks(place, _rows(list(tables.values())))
    axis.grid(axis="y", visible=False)
    for between in place[1:] - 0.5:
        axis.axhline(between, color="0.9", linewidth=0.8)
    axis.set(xlim=(0, None), ylim=(len(names) - 0.5, -0.5), xlabel=f"{xlabel}, with 95 % intervals over images",
             ylabel=ylabel)  # fmt: skip
    figure.legend(loc="outside lower center", ncols=len(tables))
    return figure


def _counted(who: str, table: pd.DataFrame) -> str:
    return f"{who} (n = {table['n'].iloc[0]:,.0f})" if table["n"].nunique() == 1 else who


def _rows(tables: list[pd.DataFrame]) -> list[str]:
    names, num = [str(name).replace("_", " ") for name in tables[0].index], tables[0]["n"]
    if num.nunique() == 1 or not all((num == table["n"]).all() for table in tables):
        return names
    return [f"{name} (n = {n:,.0f})" for name, n in zip(names, num)]


@styled
def kinds_on_plane(plane: pd.DataFrame, kinds: pd.Series) -> Figure:
    """Sentences on the plane on which they differ most, each with its error kind; right ones are small and grey.

    Args: plane: x, y, attrs["explained"], of `on_plane`; kinds: error, (N,).
    """
    figure = Figure(figsize=(6.2, 3.2), layout="constrained")
    axis, kinds = figure.subplots(), kinds.to_numpy()
    there = [kind for kind in KINDS if (kinds == kind).any()]
    for index, kind in enumerate(there):
        rows, right = kinds == kind, kind == "right"
        axis.plot(
            plane["x"][rows], plane["y"][rows], MARKERS[index % len(MARKERS)], linestyle="none",
            markersize=3 if right else 6, color=str(GREY - 0.2) if right else SERIES[index % len(SERIES)],
            label=f"{kind.replace('_', ' ')} (n = {rows.sum():,})", markeredgecolor="none" if right else "white",
        )  # fmt: skip
    share = 100 * plane.attrs["explained"]
    axis.set(xlabel="first principal component", ylabel="second", title=f"together {share:.0f} % of the variance")
    axis.locator_params(nbins=5)
    figure.legend(loc="outside right upper")
    return figure
