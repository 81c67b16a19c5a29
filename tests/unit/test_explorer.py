"""FailureExplorer without a browser: its parts are set as a person would set them."""

import base64
import io
import json
import re
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import ASSETS
from PIL import Image

from magnet.data import read_refer, select_split
from magnet.explore import FailureExplorer
from magnet.explore import answers as stored
from magnet.explore.answers import data_name
from magnet.explore.failures import read_failures
from magnet.explore.keys import SCRIPT
from magnet.refshapes.baselines import baseline_table
from magnet.workbench import plots


@pytest.fixture(scope="module")
def answers():
    expressions = select_split(read_refer(ASSETS), "val")
    return baseline_table("largest", expressions), expressions


@pytest.fixture
def explorer(answers, tmp_path):
    return FailureExplorer(answers[0], expressions=answers[1], folder=tmp_path, progress=False)


def pictures_of(explorer) -> list[Image.Image]:
    found = re.findall(r'href="data:image/jpeg;base64,([^"]+)"', explorer.picture.value)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


def test_it_opens_on_the_worst_answer_with_its_picture(answers):
    explorer = FailureExplorer(answers[0], expressions=answers[1], progress=False)
    table = explorer.failures.table
    assert len(explorer.rows) == len(table) and table["iou"].iloc[explorer.row] == table["iou"].min()
    alone, marked = pictures_of(explorer)
    assert alone == marked and alone.size == (96, 96) and len(alone.getcolors(10**6)) > 100
    assert explorer.picture.value.count('class="under truth"') == 2  # in the drawing and in the legend
    assert table["text"].iloc[explorer.row] in explorer.about.value and explorer.status.value == "ready"


def test_filters_change_rows_list_and_picture(explorer):
    table, filters, before = explorer.failures.table, explorer.filters, explorer.picture.value
    filters.text.value, filters.kind.value, filters.tags.value = "the", ("wrong_instance",), ("location",)
    wanted = table["text"].str.contains("the") & (table["error"] == "wrong_instance") & table["has_location"]
    assert sorted(explorer.rows) == np.flatnonzero(wanted).tolist() and 0 < wanted.sum() < len(table)
    assert [row for _, row in explorer.pages.list.options] == explorer.rows[:15].tolist()
    filters.kind.value, filters.iou.value = (), (0.9, 1.0)
    assert (table["iou"].iloc[explorer.rows] >= 0.9).all() and explorer.picture.value != before
    filters.text.value = "no such words"
    assert explorer.row is None and explorer.picture.value == "" and explorer.about.value == "no answer is selected"


def test_keys_walk_over_the_borders_of_pages(explorer):
    seen = [explorer.row]
    for _ in range(len(explorer.rows) + 3):
        explorer.keyboard.press("j")
        seen.append(explorer.row)
    assert list(dict.fromkeys(seen)) == explorer.rows.tolist()
    explorer.keyboard.press("PageUp")
    assert explorer.row == explorer.rows[15]
    explorer.keyboard.press("k")
    assert explorer.row == explorer.rows[14] and "page 1 of 3" in explorer.pages.where.value
    explorer.keyboard.press("PageDown")
    assert explorer.row == explorer.rows[15]


def test_every_key_of_the_help_line_is_heard(explorer):
    assert set(explorer.keyboard.known) == {"j", "k", "ArrowLeft", "ArrowRight", "PageDown", "PageUp"}
    for key in ("j, k", "PageDown, PageUp", "n note", "Escape"):
        assert key in explorer.keyboard.help
    assert '"Escape"' in SCRIPT and '"n"' in SCRIPT and ".magnet-note" in SCRIPT
    assert "magnet-note" in explorer.note._dom_classes and "magnet-explorer" in explorer._dom_classes


def test_a_note_is_kept_shown_again_and_filtered_by(explorer, tmp_path):
    row, sent_id = explorer.row, int(explorer.failures.table["sent_id"].iloc[explorer.row])
    explorer.note.text.value, explorer.note.tags.value = "reads left for right", "left, hard"
    explorer.keyboard.press("j")
    assert explorer.note.text.value == ""
    explorer.keyboard.press("k")
    assert explorer.note.text.value == "reads left for right" and explorer.note.tags.value == "left, hard"
    (kept,) = tmp_path.glob("notes-*.json")
    assert json.loads(kept.read_text()) == {str(sent_id): {"text": "reads left for right", "tags": ["left", "hard"]}}
    explorer.filters.noted.value = "hard"
    assert explorer.rows.tolist() == [row]


def test_a_note_that_another_kernel_wrote_meanwhile_joins_this_one(explorer, tmp_path):
    sent_id = int(explorer.failures.table["sent_id"].iloc[explorer.row])
    read_failures(explorer.failures.table, explorer.failures.truths, folder=tmp_path).notes.write(sent_id, "theirs")
    explorer.note.text.value = "mine"
    assert explorer.note.text.value == "theirs\nmine"


def test_exports_lie_beside_the_notes_and_errors_stay_on_the_screen(explorer, tmp_path, monkeypatch):
    written = [explorer.export(kind).name for kind in ("csv", "png", "coco", "csv")]
    assert [name.replace(data_name(explorer.failures.table.attrs), "DATA") for name in written] == [
        "selection-DATA.csv", "selection-DATA.png", "selection-DATA", "selection-DATA-2.csv",
    ]  # fmt: skip
    csv, *_, fiftyone = [part for part in explorer.children[0].children[1].children[-1].children[1:]]
    csv.click()
    assert str(tmp_path / "selection-") in explorer.status.value and "-3.csv" in explorer.status.value
    fiftyone.click()
    assert "FiftyOne is not installed" in explorer.status.value


def test_what_another_kernel_has_noted_is_seen_and_exported(explorer, tmp_path):
    sent_ids = explorer.failures.table["sent_id"].iloc[explorer.rows[:2]].astype(int)
    others = read_failures(explorer.failures.table, explorer.failures.truths, folder=tmp_path).notes
    others.write(sent_ids.iloc[0], "of the row that is shown")
    others.write(sent_ids.iloc[1], "of the next")
    explorer.pages.step(1)
    assert explorer.note.text.value == "of the next"
    others.write(sent_ids.iloc[1], "anew")
    assert pd.read_csv(explorer.export("csv"))["note"].dropna().tolist()[:2] == ["of the row that is shown", "anew"]


def test_a_reader_without_a_kernel_sees_a_picture(explorer):
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and bundle["text/plain"] == "FailureExplorer"
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).width == 1000
    explorer.filters.text.value = "no such words"
    assert explorer.stand_in().texts[0].get_text() == "no answer is selected"


def test_a_table_alone_opens_and_says_what_it_lacks(explorer, tmp_path, monkeypatch):
    monkeypatch.setenv("MAGNET_DATA", str(tmp_path / "nothing"))
    alone = FailureExplorer(explorer.failures.table.drop(columns="error"))
    assert alone.children[-1].value.count("<b>missing</b>") == 2 and "no picture" in alone.picture.value
    assert alone.filters.kind.options == (("not known", ()),)


def test_missing_pictures_are_counted_and_grey_stands_in_for_them(answers, tmp_path):
    results, expressions = answers
    expressions = expressions.copy()
    expressions.attrs["images"] = str(tmp_path / "gone")
    explorer = FailureExplorer(results, expressions=expressions, folder=tmp_path, progress=False)
    num = expressions["file"].nunique()
    assert f"{num} of {num} pictures are missing" in explorer.children[-1].value and explorer.status.value == "ready"
    grey = "#" + 3 * f"{round(plots.GREY * 255):x}"
    drawn = explorer.picture.value
    assert "<image" not in drawn and 'class="answer"' in drawn and f"background: {grey}" in drawn
    assert len(explorer.stand_in().axes) == 4


def test_a_kernel_restarted_in_the_middle_finds_everything(explorer, answers, tmp_path, monkeypatch):
    explorer.note.text.value = "half a thou"
    (notes,) = tmp_path.glob("notes-*.json")
    notes.with_name(f".{notes.name}.99.tmp").write_text('{"1": {"te')  # what a kill leaves of a write that went on
    monkeypatch.setattr(stored, "error_kinds", None)  # not called again
    again = FailureExplorer(answers[0], expressions=answers[1], folder=tmp_path, progress=False)
    assert again.row == explorer.row and again.note.text.value == "half a thou"
    again.note.text.value += "ght"
    assert "half a thought" in notes.read_text()


def test_damaged_notes_do_not_keep_it_from_opening_and_are_kept_aside(explorer, answers, tmp_path):
    explorer.note.text.value = "mine"
    (notes,) = tmp_path.glob("notes-*.json")
    notes.write_text(notes.read_text()[:-5])
    damaged = notes.read_text()
    with pytest.warns(UserWarning, match="cannot be read"):
        again = FailureExplorer(answers[0], expressions=answers[1], folder=tmp_path, progress=False)
    again.note.text.value = "new"
    assert notes.with_name(f"{notes.stem}.damaged.json").read_text() == damaged
    assert '"new"' in notes.read_text() and "mine" not in notes.read_text()


def test_texts_of_the_data_are_no_markup(explorer):
    table = explorer.failures.table.assign(text="<script>alert(1)</script> $x$")
    shown = FailureExplorer(table, expressions=explorer.failures.truths, progress=False)
    assert "<script>" not in shown.about.value and "&lt;script&gt;" in shown.about.value
    explorer.status.say("<b>")
    assert explorer.status.value == "&lt;b&gt;"


def test_a_filter_on_10834_rows_answers_within_a_tenth_of_a_second(explorer):
    table = explorer.failures.table
    table = table.iloc[np.arange(10_834) % len(table)].assign(sent_id=np.arange(10_834)).reset_index(drop=True)
    large = FailureExplorer(replace(explorer.failures, table=table))
    times = []
    for text in ("left", "the", "right"):
        start = time.process_time()
        large.filters.text.value = text
        times.append(time.process_time() - start)
    assert len(large.rows) and min(times) < 0.1
