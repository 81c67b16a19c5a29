"""What the widgets are made of: a stand-in picture, a busy sign, filters, pages of rows, and a field for notes.

A change of any part calls the function it was made with; nothing here knows what the rows are.
"""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape

import ipywidgets as w
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from magnet.explore.filters import Filter, num_pages, page
from magnet.explore.notes import Note, Notes
from magnet.workbench.errors import KINDS

SORTS = ("iou", "sent_id", "area", "num_words", "num_same_category", "U")
WIDE = {"width": "98%"}
LIST_STYLE = """<style>
.magnet-list select { font: 11px/1.45 var(--jp-code-font-family, monospace); overflow-x: hidden }
.magnet-list option { overflow: hidden; text-overflow: ellipsis }
</style>"""
ANY = ","  # no tag is called so; None would show as no choice at all
NARROW = {"description_width": "4.5em"}


def as_png(figure: Figure | Image.Image, dpi: int = 100) -> bytes:
    """A figure, or a picture, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    if isinstance(figure, Figure):
        figure.savefig(buffer, format="png", dpi=dpi)
    else:
        figure.save(buffer, format="png")
    return buffer.getvalue()


def as_image(figure: Figure, dpi: int = 80) -> Image.Image:
    """A figure as a picture."""
    return Image.open(io.BytesIO(as_png(figure, dpi))).convert("RGB")


class StandIn:
    """A widget that shows a picture of itself where no kernel runs, as on a web page or in print.

    Mixed in before the ipywidgets class; `stand_in()` gives the picture.
    """

    def stand_in(self) -> Figure | Image.Image:
        raise NotImplementedError

    def _repr_mimebundle_(self, **options) -> dict:
        bundle = super()._repr_mimebundle_(**options)
        picture = base64.b64encode(as_png(self.stand_in())).decode()
        return bundle | {"text/plain": type(self).__name__, "image/png": picture}


def missing_lines(missing: Iterable[str]) -> w.HTML:
    """What a widget had to do without, a line each."""
    return w.HTML("<br>".join(f"<b>missing</b>: {escape(line)}" for line in dict.fromkeys(missing)))


class Status(w.HTML):
    """One line that says what is going on."""

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Says so while something takes its time; an error the user can mend is shown and goes no further."""
        self.value = f"<b>busy</b>: {escape(what)} …"
        try:
            yield
            self.value = "ready"
        except (ValueError, OSError) as error:
            self.say(str(error))

    def say(self, text: str) -> None:
        self.value = escape(text)


class FilterControls(w.VBox):
    """Text, error kind, tags, IoU and order of the rows of a table. `wanted()` is what they say."""

    def __init__(self, table: pd.DataFrame, masks: Mapping[str, np.ndarray], notes: Notes, changed: Callable[[], None]):
        self.notes = notes
        self.text = w.Text(description="text", placeholder="part of a sentence", layout=WIDE, style=NARROW)
        self.kind = w.Dropdown(options=_kinds(table), description="error", layout=WIDE, style=NARROW)
        tags = [(f"{tag} ({has.sum():,})", tag) for tag, has in masks.items()]
        self.tags = w.SelectMultiple(options=tags, rows=5, description="tags", layout=WIDE, style=NARROW)
        self.iou = w.FloatRangeSlider(
            value=(0, 1), min=0, max=1, step=0.01, description="IoU", readout_format=".2f", layout=WIDE, style=NARROW
        )
        self.noted = w.Dropdown(options=_noted(notes), description="notes", layout=WIDE, style=NARROW)
        sorts = [name for name in SORTS if name in table]
        self.sort = w.Dropdown(options=sorts, description="order", layout={"width": "62%"}, style=NARROW)
        self.descending = w.Checkbox(description="largest first", indent=False, layout={"width": "auto"})
        parts = [self.text, self.kind, self.tags, self.iou, self.noted, self.sort, self.descending]
        for part in parts:
            part.observe(lambda _: changed(), "value")
        super().__init__([*parts[:5], w.HBox([self.sort, self.descending], layout=WIDE)])

    def wanted(self) -> Filter:
        low, high = self.iou.value
        return Filter(
            text=self.text.value, kinds=self.kind.value, tags=self.tags.value, low=low, high=high,
            sent_ids=self._sent_ids(), sort=self.sort.value, descending=self.descending.value,
        )  # fmt: skip

    def _sent_ids(self) -> list[int] | None:
        chosen = self.noted.value
        if chosen == ANY:
            return None
        return [sent_id for sent_id, note in self.notes.items() if chosen == "" or chosen in note.tags]

    def refresh(self) -> None:
        """New tags in the notes become a choice."""
        if list(self.noted.options) != (options := _noted(self.notes)):
            kept = self.noted.value
            self.noted.options = options
            self.noted.value = kept if kept in dict(options).values() else ANY


def _kinds(table: pd.DataFrame) -> list[tuple[str, tuple[str, ...]]]:
    if "error" not in table:
        return [("not known", ())]
    counts = table["error"].value_counts()
    wrong = tuple(kind for kind in KINDS if kind != "right")
    known = [(f"{kind.replace('_', ' ')} ({counts.get(kind, 0):,})", (kind,)) for kind in KINDS]
    return [("any", ()), (f"all but right ({counts.reindex(wrong).sum():,.0f})", wrong), *known]


def _noted(notes: Notes) -> list[tuple[str, str]]:
    return [("any", ANY), ("with a note", ""), *((f"tagged {tag}", tag) for tag in notes.all_tags())]


class Pages(w.VBox):
    """Rows a page at a time. `row` is the chosen one (a position in the table), or None where there is none.

    Args: label: what stands for a row in the list; chosen: called when another row, or none, is chosen.
    """

    def __init__(self, label: Callable[[int], str], chosen: Callable[[], None], size: int = 15):
        self.label, self.size, self.rows, self.number = label, size, np.array([], int), 0
        self.list = w.Select(rows=size, layout=WIDE)
        self.list.add_class("magnet-list")
        self._chosen = lambda _=None: chosen()
        self.list.observe(self._chosen, "value")
        self.where = w.Label()
        buttons = [w.Button(description=text, layout={"width": "8em"}) for text in ("◀ page", "page ▶")]
        for button, way in zip(buttons, (-1, 1)):
            button.on_click(lambda _, way=way: self.turn(way))
        look = w.HTML(LIST_STYLE, layout={"display": "none"})
        super().__init__([self.list, w.HBox(buttons), self.where, look])

    @property
    def row(self) -> int | None:
        return self.list.value

    def show(self, rows: np.ndarray) -> None:
        """Show other rows, from the first page on."""
        self.rows = rows
        self._open(0)

    def turn(self, way: int) -> None:
        """One page on (1) or back (-1); at the ends nothing happens."""
        if 0 <= self.number + way < num_pages(self.rows, self.size):
            self._open(self.number + way)

    def step(self, way: int) -> None:
        """One row on (1) or back (-1), over the pages' borders."""
        here = self.list.index or 0
        if 0 <= here + way < len(self.list.options):
            self.list.index = here + way
        elif 0 <= self.number + way < num_pages(self.rows, self.size):
            self._open(self.number + way, last=way < 0)

    def actions(self) -> dict[str, Callable[[], None]]:
        """What each key does, by its name in a browser."""
        forward, back = (lambda: self.step(1)), (lambda: self.step(-1))
        turns = {"PageDown": lambda: self.turn(1), "PageUp": lambda: self.turn(-1)}
        return {"j": forward, "ArrowRight": forward, "k": back, "ArrowLeft": back, **turns}

    def _open(self, number: int, last: bool = False) -> None:
        self.number = number
        self.list.unobserve(self._chosen, "value")  # the rows that the list passes on its way are not drawn
        shown = page(self.rows, number, self.size).tolist()
        self.list.options = [(self.label(row), row) for row in shown]
        self.list.index = (len(shown) - 1 if last else 0) if shown else None
        self.where.value = f"page {number + 1:,} of {num_pages(self.rows, self.size):,}; {len(self.rows):,} expressions"
        self.list.observe(self._chosen, "value")
        self._chosen()


class NoteField(w.VBox):
    """The note and the tags of one expression, written to the file when a field is left.

    Not at every key stroke: the browser holds strokes back while the kernel works, and they would come after a step to
    another expression and be taken for its note.
    """

    def __init__(self, notes: Notes, status: Status, written: Callable[[], None]):
        self.notes, self.status, self.written, self.sent_id = notes, status, written, None
        self.text = w.Textarea(placeholder="note (n)", rows=2, layout=WIDE, continuous_update=False)
        self.tags = w.Text(placeholder="own tags, separated by commas", layout=WIDE, continuous_update=False)
        for part in (self.text, self.tags):
            part.observe(lambda _: self._write(), "value")
        super().__init__([self.text, self.tags])
        self.add_class("magnet-note")

    def show(self, sent_id: int | None) -> None:
        """Show the note on another expression, as it stands in the file by now."""
        self.notes.reread()
        self.sent_id = None  # what is filled in now is no change
        self._fill(self.notes.get(sent_id, Note()))
        self.sent_id = sent_id

    def _write(self) -> None:
        if self.sent_id is None:
            return
        tags = [tag.strip() for tag in self.tags.value.split(",") if tag.strip()]
        with self.status.busy("writing the note"):
            kept = self.notes.write(self.sent_id, self.text.value, tags)
            if kept != Note(self.text.value, tuple(tags)):  # another kernel's note joined it
                self.show(self.sent_id)
            self.written()

    def _fill(self, note: Note) -> None:
        self.text.value, self.tags.value = note.text, ", ".join(note.tags)
