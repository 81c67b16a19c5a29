"""Type a phrase about a picture and see the mask, where each word is read, and what each word does.

PhrasePlayground(magnet.load("refshapes-tiny"), "picture.png", "the red star")
PhrasePlayground(magnet.load("refshapes-tiny"), expressions=select_split(read_refer("data"), "val"))
"""

import io
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from magnet.explore.occlusion import iou, occlude
from magnet.explore.panel import Panel, read_small
from magnet.explore.phrases import Answer, answer_phrase, swap_word, words_of_kind
from magnet.explore.word_plots import occlusion_figure
from magnet.explore.word_table import draw_occlusion
from magnet.predictor import Predictor
from magnet.workbench.diagnostics import load_examples
from magnet.workbench.overlay import draw_answer, draw_heat, heat_scale, jpeg, legend, outline, side_by_side
from magnet.workbench.plots import attention_per_word, show_masks

MASK, ATTENTION, OCCLUSION = range(3)  # the places


class PhrasePlayground(Panel):
    """Enter asks: the mask beside that of the phrase before, the attention to each word, and every word left out.

    A word can be swapped for another; words that the network does not know are named. Pictures are one's own, a file
    from the browser, or those of a table's expressions, whose truth is then known: the arrow keys go through its rows.

    Args: picture: anything `read_picture` takes; text: the first phrase; expressions: from `read_refer`, shown from its
        first row on where no picture is given.
    """

    def __init__(
        self, predictor: Predictor, picture: Image.Image | np.ndarray | str | Path | None = None, text: str = "",
        expressions: pd.DataFrame | None = None,
    ):  # fmt: skip
        self.predictor, self.expressions = predictor, expressions
        self.image: np.ndarray | None = None  # (H,W,3) uint8
        self.truths: dict[str, np.ndarray] = {}  # sentence -> (H,W) bool, of the expression that is shown
        self.answer: Answer | None = None
        self.shown: int | None = None  # row of the expressions
        self.leaving_out: pd.DataFrame | None = None  # of `occlude`, where it is shown
        self._make_controls()
        super().__init__([self.phrase, widgets.HBox([self.word, self.other]), self._sources()], num_places=3)
        self.add_class("magnet-playground")
        if picture is not None:
            self.show(picture, text)
        elif expressions is not None:
            self.show_expression(0, text)

    def show(self, picture: Image.Image | np.ndarray | str | Path | io.BytesIO, text: str = "") -> None:
        """Another picture, anything `read_picture` takes, with the phrase that stands there or a new one."""
        self._work(self._show_picture, picture, text or self.phrase.value)

    def show_expression(self, row: int, text: str = "") -> None:
        """The picture of the expression in that row of the table, with its sentence or another text."""
        self._work(self._show_expression, row, text)

    def ask(self, text: str) -> None:
        """What Enter does."""
        self._work(self._ask, text)

    def swap(self, position: int, word: str) -> None:
        """Put another word in the place of the phrase's word number `position` (0 is the first), and ask."""
        self._work(self._swap, position, word)

    # Controls ---------------------------------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        wide = widgets.Layout(width="min(48em, 95%)")
        self.phrase = widgets.Text(
            description="phrase", placeholder="what to look for, then Enter", continuous_update=False, layout=wide
        )
        self.word = widgets.Dropdown(description="swap")
        self.other = widgets.Combobox(placeholder="another word, then Enter", continuous_update=False)
        self.row = widgets.BoundedIntText(description="row", layout=widgets.Layout(width="12em"))
        self.upload = widgets.FileUpload(accept="image/*", description="own picture")
        self.each_word = widgets.Checkbox(True, description="leave out each word")
        self.phrase.observe(lambda change: self._typed(change["new"]), "value")
        self.word.observe(lambda change: self._offer(), "value")
        self.other.observe(lambda change: change["new"] and self.swap(self.word.value, change["new"]), "value")
        self.row.observe(lambda change: self._turned(change["new"]), "value")
        self.upload.observe(lambda change: self._uploaded(change["new"]), "value")
        self.each_word.observe(lambda change: self._work(self._leave_out), "value")

    def _sources(self) -> widgets.HBox:
        self.row.max = 0 if self.expressions is None else len(self.expressions) - 1
        rows = [] if self.expressions is None else [self.row]
        return widgets.HBox([*rows, self.upload, self.each_word])

    def _typed(self, text: str) -> None:
        if self.answer is None or text != self.answer.text:  # else it is we who wrote it there
            self.ask(text)

    def _turned(self, row: int) -> None:
        if row != self.shown:  # else it is we who wrote it there
            self.show_expression(row)

    def _uploaded(self, files: Sequence[dict]) -> None:
        for file in files:
            picture = io.BytesIO(file["content"])
            picture.filename = file["name"]  # for the error that names it
            self.show(picture)

    def _offer(self) -> None:
        """Words to swap the chosen one for."""
        known = self.answer is not None and self.word.value is not None
        word = self.answer.text.split()[self.word.value] if known else ""
        self.other.options = words_of_kind(self.predictor.tokenizer, word.lower())

    # Work: each gives remarks -----------------------------------------------------------------------------------------

    def _show_picture(self, picture, text: str) -> Sequence[str]:
        image, remarks = read_small(picture)
        self._set_picture(image, {})
        return [*self._ask(text), *remarks]

    def _show_expression(self, row: int, text: str) -> Sequence[str]:
        if self.expressions is None:
            raise ValueError("there are no expressions here; give a table of read_refer as expressions=")
        if not 0 <= row < len(self.expressions):
            raise ValueError(f"there is no row {row}; they go from 0 to {len(self.expressions) - 1}")
        self.shown = self.row.value = row
        record = self.expressions.iloc[row]
        (example,) = load_examples(self.expressions, [record["sent_id"]])
        self._set_picture(example.image, {example.text: example.truth})
        return [*self._ask(text or example.text), f"sentence {record['sent_id']}: {example.text}"]

    def _set_picture(self, image: np.ndarray, truths: dict[str, np.ndarray]) -> None:
        self.image, self.truths, self.answer = image, truths, None
        self.predictor.set_image(image)

    def _ask(self, text: str) -> Sequence[str]:
        before, self.answer = self.answer, None
        self._clear()
        if self.image is None:
            raise ValueError("no picture yet; choose one")
        self.answer = answer_phrase(self.predictor, text)
        self._write(text)
        self._draw(before)
        self._leave_out()
        return [f"score {self.answer.score:.2f}", *self.answer.remarks]

    def _swap(self, position: int, word: str) -> Sequence[str]:
        self.other.value = ""
        return self._ask(swap_word(self.phrase.value, position, word))

    def _write(self, text: str) -> None:
        """The phrase and its words into the controls."""
        self.phrase.value = text
        self.word.options = [(f"{k + 1} {word}", k) for k, word in enumerate(text.split())]
        self.word.value = 0
        self._offer()  # also where the number was 0 before

    def _clear(self) -> None:
        """The picture alone: no mask may stand beside a phrase that it does not answer."""
        self.leaving_out = None
        alone = "" if self.image is None else side_by_side({"": draw_answer(jpeg(self.image), self.image.shape[:2])})
        for place, html in ((MASK, alone), (ATTENTION, ""), (OCCLUSION, "")):
            self._show(place, html)

    def _draw(self, before: Answer | None) -> None:
        picture, size = jpeg(self.image), self.image.shape[:2]
        answers = [self.answer, *([before] if before and before.text != self.answer.text else [])]
        drawings = {
            self._title(when, answer): draw_answer(picture, size, self._truth(answer), outline(answer.mask))
            for when, answer in zip(("now", "before"), answers)
        }
        kinds = ("answer", "truth")[: 1 + any(map(self._truth, answers))]
        self._show(MASK, side_by_side(drawings, legend(kinds), "min(100%, 25rem)"))
        if self.answer.tokens:
            self._show(ATTENTION, self._attention(picture, size))

    def _attention(self, picture: str, size: tuple[int, int]) -> str:
        tokens, maps, top = self.answer.tokens, self.answer.attention, float(self.answer.attention.max())
        drawings = {
            f"{number} {token}": draw_heat(picture, size, maps[..., number - 1] / top, f"where {token} is read")
            for number, token in enumerate(tokens, 1)
        }
        return side_by_side(drawings, heat_scale(top, "share of a place's attention"), "8rem")

    def _truth(self, answer: Answer) -> str:
        """Its outline; "" where it is not known, as a phrase of one's own may mean something else."""
        return outline(self.truths[answer.text]) if answer.text in self.truths else ""

    def _figures(self) -> list[Figure]:
        if self.answer is None:
            return []
        figures = [show_masks(self.image, [self.answer.mask], [self.answer.text])]
        if self.answer.tokens:
            figures.append(attention_per_word(self.image, self.answer.tokens, self.answer.attention, num_columns=8))
        return [*figures, *([] if self.leaving_out is None else [occlusion_figure(self.image, self.leaving_out)])]

    def _title(self, when: str, answer: Answer) -> str:
        truth = self.truths.get(answer.text)  # a phrase of one's own may mean something else
        found = "" if truth is None else f" (IoU with the truth {iou(answer.mask, truth):.2f})"
        return f"{when}: {answer.text}{found}"

    def _leave_out(self) -> Sequence[str]:
        self.leaving_out = None
        self._show(OCCLUSION, "")
        if self.each_word.value and self.answer:
            self.leaving_out = occlude(self.predictor, self.answer.text, self.truths.get(self.answer.text))
            self._show(OCCLUSION, draw_occlusion(jpeg(self.image), self.image.shape[:2], self.leaving_out))
        return []
