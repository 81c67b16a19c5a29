"""CompareRuns: two models on the same expressions, where one is right and the other wrong, and for which tags.

from magnet.explore import CompareRuns
CompareRuns("refshapes-tiny", "refshapes-tiny-lavt", split="testB")
"""

from html import escape
from pathlib import Path

import ipywidgets as w
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from magnet.explore.differences import OUTCOMES, aligned, differences_by_tag, outcomes
from magnet.explore.failures import Failures, read_failures
from magnet.explore.filters import Filter, select, tag_masks
from magnet.explore.keys import Keys
from magnet.explore.parts import Pages, StandIn, Status, as_png, missing_lines
from magnet.workbench.overlay import draw_example, legend, side_by_side
from magnet.workbench.plots import difference_bars

HELP = "Keys, after a click: j, k next, previous · PageDown, PageUp pages · Escape out of a field"
MOST_TAGS = 12  # in the figure: those with the largest differences
FEWEST = 20  # expressions with a tag, below which it is left out of the figure


class CompareRuns(StandIn, w.VBox):
    """Two runs side by side.

    Args: a, b, options: as `read_failures` takes them, or the Failures it gives; the same expressions under the same
        protocol. names: what they are called; None: by their source. `differences` is the table of
        `differences_by_tag`; `rows` are positions in a's table; `row` is the one shown, or None.
    Raises ValueError where expressions, truth or protocol differ.
    """

    def __init__(self, a, b, names: tuple[str, str] | None = None, **options):
        self.a, b = (one if isinstance(one, Failures) else read_failures(one, **options) for one in (a, b))
        self.names = names or (_name(a, self.a, "a"), _name(b, b, "b"))
        self.missing = (*self.a.missing, *b.missing)
        self.answers = aligned(self.a.table, b.table)  # b's, in the order of a
        self.differences = differences_by_tag(self.a.table, b.table)
        self.outcomes, self.masks = outcomes(self.a.table, b.table), tag_masks(self.a.table)
        self.status, self.picture, self.about = Status(), w.HTML(), w.HTML()
        self.choice = w.Dropdown(options=self._choices(), description="right")
        self.tag = w.Dropdown(options=[("any", ()), *((tag, (tag,)) for tag in self.masks)], description="tag")
        self.pages = Pages(self._label, self._show)
        self.keyboard = Keys(self.pages.actions(), HELP, "magnet-compare")
        for part in (self.choice, self.tag):
            part.observe(lambda _: self._filter(), "value")
        super().__init__(self._layout())
        self.add_class("magnet-compare")
        self._filter()

    @property
    def rows(self) -> np.ndarray:
        return self.pages.rows

    @property
    def row(self) -> int | None:
        return self.pages.row

    def stand_in(self) -> Figure:
        """Differences by tag with their intervals: the tags with the largest ones."""
        found = self.differences[self.differences["n"] >= FEWEST].drop(index="all", errors="ignore")
        largest = found.loc[found["value"].abs().sort_values().index[-MOST_TAGS:]].sort_values("value")
        return difference_bars(pd.concat([self.differences.loc[["all"]], largest]), *self.names)

    def _choices(self) -> list[tuple[str, str]]:
        a, b = self.names
        said = dict(zip(OUTCOMES, (f"{a} alone", f"{b} alone", "both", "neither")))
        return [(f"{said[one]} ({(self.outcomes == one).sum():,})", one) for one in OUTCOMES]

    def _layout(self) -> list[w.Widget]:
        bars = w.Image(
            value=as_png(self.stand_in()), format="png", layout={"max_width": "100%", "align_self": "flex-start"}
        )
        left = w.VBox([self.choice, self.tag, self.pages], layout={"width": "24em", "min_width": "18em"})
        right = w.VBox([self.picture, self.about], layout={"flex": "1 1 30em"})
        both = w.HBox([left, right], layout={"flex_flow": "row wrap"})
        return [bars, both, self.status, self.keyboard, missing_lines(self.missing)]

    def _filter(self) -> None:
        rows = select(self.a.table, Filter(tags=self.tag.value), self.masks)
        self.pages.show(rows[self.outcomes[rows] == self.choice.value])

    def _label(self, row: int) -> str:
        a, b = self.a.table.iloc[row], self.answers.iloc[row]
        return f"{a['iou']:.2f} {b['iou']:.2f}  {a['text']}"

    def _show(self) -> None:
        if self.row is None:
            self.picture.value, self.about.value = "", "no answer is selected"
            return
        with self.status.busy("drawing"):
            self._draw(self.row)
            answer = self.a.table.iloc[self.row]
            self.about.value = f"<b>{escape(answer['text'])}</b><br>sent_id {answer['sent_id']}"

    def _draw(self, row: int) -> None:
        examples = [self.a.example(row), self.a.example(row, self.answers)]
        titles = [f"{name}, IoU {example.iou:.2f}" for name, example in zip(self.names, examples)]
        self.picture.value = side_by_side(dict(zip(titles, map(draw_example, examples))), legend())


def _name(source, failures: Failures, otherwise: str) -> str:
    named = Path(source).name if isinstance(source, str | Path) else failures.table.attrs.get("source")
    return named or otherwise
