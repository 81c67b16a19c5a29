"""FailureExplorer: filter the answers of a model, look at one after the other, write down why they fail.

    from magnet.explore import FailureExplorer
    explorer = FailureExplorer("refshapes-tiny", split="testB")
    explorer                       # the widget; explorer.stand_in() is its picture

Keys, wherever the focus is inside it: j and k or arrows for the next and the one before, PageDown and PageUp for pages,
n for the note, Escape to leave a field.
"""

from html import escape
from pathlib import Path

import ipywidgets as w
import numpy as np
from matplotlib.figure import Figure

from magnet import runs
from magnet.explore import export
from magnet.explore.failures import Failures, read_failures
from magnet.explore.filters import select, tag_masks
from magnet.explore.keys import Keys
from magnet.explore.parts import FilterControls, NoteField, Pages, StandIn, Status, missing_lines
from magnet.workbench.overlay import MARKS, draw_answer, draw_example, jpeg, legend, side_by_side
from magnet.workbench.plots import prediction_grid

HELP = "Keys, after a click: j, k next, previous · PageDown, PageUp pages · n note · Escape out of a field"
NUM_SHOWN = 4  # answers in the stand-in


class FailureExplorer(StandIn, w.VBox):
    """Answers with their pictures, by tag, error kind and IoU.

    Args: source, options: as `read_failures` takes them, or the Failures it gives. `rows` are the positions that the
        filters let through, in their order; `row` is the one shown, or None.
    """

    def __init__(self, source, **options):
        self.failures = source if isinstance(source, Failures) else read_failures(source, **options)
        table, self.masks = self.failures.table, tag_masks(self.failures.table)
        self.status, self.about, self.picture = Status(), w.HTML(), w.HTML()
        self.filters = FilterControls(table, self.masks, self.failures.notes, self._filter)
        self.pages = Pages(self._label, self._show)
        self.note = NoteField(self.failures.notes, self.status, self.filters.refresh)
        self.keyboard = Keys(self.pages.actions(), HELP, "magnet-explorer")
        super().__init__(self._layout())
        self.add_class("magnet-explorer")
        self.about.add_class("magnet-facts")
        self._filter()

    @property
    def rows(self) -> np.ndarray:
        return self.pages.rows

    @property
    def row(self) -> int | None:
        return self.pages.row

    def stand_in(self) -> Figure:
        """The first four rows of the selection; of an empty one, a figure that says so."""
        if not len(self.rows):
            figure = Figure(figsize=(4, 1))
            figure.text(0.5, 0.5, "no answer is selected", ha="center")
            return figure
        return prediction_grid([self.failures.example(row) for row in self.rows[:NUM_SHOWN]])

    def export(self, kind: str) -> Path:
        """Write the selection beside the notes, under a name that is free: kind "csv", "png" or "coco". Returns the
        file or folder."""
        self.note.show(self.note.sent_id)  # what another kernel has noted is exported, too
        writers = {"csv": export.write_csv, "png": export.write_png, "coco": export.write_coco}
        notes = self.failures.notes.path or runs.ELSEWHERE / "notes.json"
        name = notes.stem.replace("notes", "selection", 1) + ("" if kind == "coco" else f".{kind}")
        return writers[kind](self.failures, self.rows, runs.free_path(notes.with_name(name)))

    def _layout(self) -> list[w.Widget]:
        left = w.VBox([self.filters, self.pages], layout={"width": "24em", "min_width": "18em"})
        right = w.VBox([self.picture, self.about, self.note, self._exports()], layout={"flex": "1 1 30em"})
        whole = w.HBox([left, right], layout={"flex_flow": "row wrap"})
        return [whole, self.status, self.keyboard, missing_lines(self.failures.missing)]

    def _exports(self) -> w.HBox:
        ways = {
            "CSV": lambda: self.export("csv"), "PNG": lambda: self.export("png"), "COCO": lambda: self.export("coco"),
            "FiftyOne": lambda: export.to_fiftyone(self.failures, self.rows).name,
        }  # fmt: skip
        buttons = [w.Button(description=name, layout={"width": "7em"}) for name in ways]
        for button, way in zip(buttons, ways.values()):
            button.on_click(lambda _, way=way: self._export(way))
        return w.HBox([w.Label("export the selection:"), *buttons], layout={"flex_flow": "row wrap"})

    def _export(self, way) -> None:
        written = None
        with self.status.busy(f"exporting {len(self.rows):,} expressions"):
            written = way()
        if written is not None:
            few = f", the first {export.MOST_PICTURES} of {len(self.rows):,}" if str(written).endswith(".png") else ""
            self.status.say(f"written: {written}{few if len(self.rows) > export.MOST_PICTURES else ''}")

    def _filter(self) -> None:
        self.pages.show(select(self.failures.table, self.filters.wanted(), self.masks))

    def _label(self, row: int) -> str:
        answer = self.failures.table.iloc[row]
        kind = answer.get("error", "").replace("_", " ")
        return f"{answer['iou']:.2f}  {kind:14}  {answer['text']}"

    def _show(self) -> None:
        row = self.row
        self.note.show(None if row is None else int(self.failures.table["sent_id"].iloc[row]))
        if row is None:
            self.picture.value, self.about.value = "", "no answer is selected"
            return
        with self.status.busy("drawing"):
            self._draw(row)
            self.about.value = self._facts(row)

    def _draw(self, row: int) -> None:
        example, others = self.failures.example(row), self.failures.competitors(row)
        alone = draw_answer(jpeg(example.image), example.truth.shape, said="The picture alone")
        name = "no picture" if example.image is None else "picture"
        drawings = {name: alone, f"IoU {example.iou:.2f}": draw_example(example, others)}
        self.picture.value = side_by_side(drawings, legend([*MARKS][: 2 + bool(others)]))

    def _facts(self, row: int) -> str:
        answer = self.failures.table.iloc[row]
        tags = ", ".join(tag for tag, has in self.masks.items() if has[row])
        kind = answer.get("error", "error kind not known").replace("_", " ")
        facts = f"{kind}, IoU {answer['iou']:.2f}, sent_id {answer['sent_id']}"
        return "<br>".join([f"<b>{escape(answer['text'])}</b>", facts, escape(tags)])
