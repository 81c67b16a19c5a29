"""Time and memory against image size, tokens, pictures, sentences a picture and processes, with fitted exponents.

python benchmarks/scaling.py --output results/tables/scaling.csv      (twelve minutes, with nothing beside it)

Every point is measured in a process of its own (see fresh.py); the same command goes on where it was stopped. The full
size is measured where that is affordable, the tiny network everywhere; each row says which. Working memory is that
beyond what stays between two steps. Beside the table: NAME_exponents.csv, seconds and working memory as a·x^k, k with a
95 % interval, and results/figures/NAME.png. Where k is below that of the arithmetic, something costs the same
whatever x is.
"""

import dataclasses
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
from fresh import Work, in_process
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from measured import parser
from scipy import stats
from tqdm import tqdm

from magnet.workbench.benchmark import write_table
from magnet.workbench.plots import BLUE, LINES, MARKERS, ORANGE, styled

AXES = {  # field of Work -> what a reader sees, with its unit
    "image_size": "image side (px)",
    "num_tokens": "tokens a sentence",
    "batch_size": "pictures a batch",
    "sentences_per_image": "sentences a picture",
    "num_processes": "processes",
}
QUANTITIES = {"seconds": "time (s)", "working_gb": "working memory (GB)", "memory_gb": "memory, all processes (GB)"}
NAMES = {"magnet_base": "Swin-B", "magnet_tiny": "tiny"}
WORKS = ["forward", "step", "training"]
SIZES, KEYS = (240, 336, 480, 672, 960), ["axis", *(field.name for field in dataclasses.fields(Work))]


def points(quick: bool) -> Iterator[tuple[str, Work]]:
    """Axis and work of each point, `quick`: the least that makes a plot."""
    tiny, base = {"recipe": "magnet_tiny", "rounds": 7}, {"recipe": "magnet_base", "rounds": 1}
    some = {"sentences_per_image": 1, "batch_size": 4}
    for work in ("forward", "step"):
        large = (() if quick else SIZES) if work == "forward" else (() if quick else SIZES[:3])
        yield from _along("image_size", large, work=work, **base)
        yield from _along("image_size", (96, 144, 192) if quick else SIZES, work=work, **tiny, sentences_per_image=1)
        yield from _along("num_tokens", (10, 40) if quick else (10, 20, 40, 80, 160), work=work, **tiny, **some)
        yield from _along("batch_size", (1, 4) if quick else (1, 2, 4, 8, 16), work=work, **tiny, sentences_per_image=1)
        yield from _along("sentences_per_image", (1, 4) if quick else (1, 2, 4, 8, 16), work=work, **tiny, batch_size=4)
    shared = {"recipe": "magnet_tiny", "work": "training", "batch_size": 16, "rounds": 4 if quick else 20}
    yield from _along("num_processes", (1, 2), **shared)


def _along(axis: str, values: tuple[int, ...], **rest) -> Iterator[tuple[str, Work]]:
    return ((axis, Work(**rest, **{axis: value})) for value in values)


def measure(todo: list[tuple[str, Work]], kept: Path) -> pd.DataFrame:
    """A row a point; each is kept in a file as soon as it is there, and found there by the next call."""
    rows = pd.read_json(kept, lines=True).to_dict("records") if kept.exists() else []
    done = {_key(row) for row in rows}
    for axis, work in tqdm(todo, unit="point"):
        row = {"axis": axis, **dataclasses.asdict(work)}
        if _key(row) not in done:
            rows.append({**row, **_measured(work)})
            kept.parent.mkdir(parents=True, exist_ok=True)
            with kept.open("a") as file:
                file.write(pd.DataFrame(rows[-1:]).to_json(orient="records", lines=True))
    wanted = {_key({"axis": axis, **dataclasses.asdict(work)}) for axis, work in todo}
    return pd.DataFrame([row for row in rows if _key(row) in wanted])


def _key(row: dict) -> tuple:
    return tuple(None if pd.isna(row[name]) else row[name] for name in KEYS)


def _measured(work: Work) -> dict[str, float]:
    try:
        return in_process(work)
    except BrokenProcessPool as error:  # the other points are worth having
        print(f"{work}: {error}", file=sys.stderr)
        return {"seconds": float("nan")}


def exponent(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Least squares of log y = log a + k·log x: k and its 95 % interval, which two points do not give."""
    fit = stats.linregress(np.log(x), np.log(y))
    half = stats.t.ppf(0.975, len(x) - 2) * fit.stderr if len(x) > 2 else np.nan
    return fit.slope, fit.slope - half, fit.slope + half


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """A row an axis, network, work and quantity."""
    rows = []
    for (axis, recipe, work), found in table.groupby(["axis", "recipe", "work"], sort=False):
        for quantity in QUANTITIES:
            if quantity in found and len(part := found[found[quantity] > 0]) > 1:
                k, low, high = exponent(part[axis].to_numpy(float), part[quantity].to_numpy())
                about = {"axis": axis, "recipe": recipe, "work": work, "quantity": quantity, "points": len(part)}
                rows.append({**about, "exponent": k, "low": low, "high": high})
    return pd.DataFrame(rows)


@styled
def figure(table: pd.DataFrame) -> Figure:
    """A column an axis, seconds above memory, all logarithmic: points, and the fitted line of each network and work."""
    axes, fits = list(dict.fromkeys(table["axis"])), exponents(table)
    made = Figure(figsize=(3.3 * len(axes), 6.6), layout="constrained")
    made.suptitle("lines: a·x^k fitted to the points, k with a 95 % interval over n points (three or more)")
    for axis, panels in zip(axes, made.subplots(2, len(axes), squeeze=False).T):
        memory = "memory_gb" if axis == "num_processes" else "working_gb"
        for panel, quantity in zip(panels, ("seconds", memory)):
            found = fits[(fits["axis"] == axis) & (fits["quantity"] == quantity)]
            _panel(panel, table[table["axis"] == axis], found, axis, quantity)
    return made


def _panel(panel: Axes, table: pd.DataFrame, fits: pd.DataFrame, axis: str, quantity: str) -> None:
    for _, fit in fits.iterrows():
        rows = table[(table["recipe"] == fit["recipe"]) & (table["work"] == fit["work"]) & (table[quantity] > 0)]
        x, y, index = rows[axis], rows[quantity], WORKS.index(fit["work"])
        color, fill = (ORANGE, ORANGE) if fit["recipe"] == "magnet_base" else (BLUE, "white")
        look = {"color": color, "markerfacecolor": fill, "linestyle": LINES[index], "marker": MARKERS[index]}
        line = stats.gmean(y) * (x / stats.gmean(x)) ** fit["exponent"]
        panel.plot(x, line, **look | {"marker": ""})
        panel.plot(x, y, **look | {"linestyle": ""}, markersize=5)
        panel.plot([], [], **look, markersize=5, label=_label(fit))
    panel.set(xscale="log", yscale="log", xlabel=AXES[axis], ylabel=QUANTITIES[quantity])
    panel.set_xticks(ticks := sorted(set(table[axis])), [f"{tick:g}" for tick in ticks])
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.minorticks_off()
    panel.margins(y=0.12)
    panel.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), fontsize=8)


def _label(fit: pd.Series) -> str:
    interval = "" if np.isnan(fit["low"]) else f" [{fit['low']:.2f}, {fit['high']:.2f}]"
    return f"{NAMES[fit['recipe']]}, {fit['work']}: k = {fit['exponent']:.2f}{interval}, n = {fit['points']}"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="few small points, to see that it runs")
    options = options.parse_args()
    output = options.output or Path("results/scaling.csv")
    kept = output.with_suffix(".points.jsonl")
    table = measure(list(points(options.quick)), kept)
    command = f"python benchmarks/scaling.py --output {output}" + " --quick" * options.quick
    fits = exponents(table)
    print(fits.to_string(index=False, float_format="{:.2f}".format))
    write_table(table, output, command)
    write_table(fits, output.with_stem(output.stem + "_exponents"), command)
    drawn = Path("results/figures") / f"{output.stem}.png" if options.output else output.with_suffix(".png")
    drawn.parent.mkdir(parents=True, exist_ok=True)
    figure(table).savefig(drawn, dpi=100, bbox_inches="tight")
    kept.unlink()  # a new call measures anew


if __name__ == "__main__":
    main()
