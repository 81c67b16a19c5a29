"""The page of failures as a person uses it: the file is opened in a real browser without a network, and filtered.

What was on the screen is left in pytest's folder: pytest tests/browser/test_failures_page.py --basetemp FOLDER
"""

import dataclasses
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ASSETS
from PIL import Image

pytest.importorskip("playwright", reason="pip install -e .[dev], for playwright; apt-get install chromium")

from lab import cut_off, faint
from playwright.sync_api import Locator, expect

import magnet
from magnet import runs
from magnet.data import read_refer, select_split
from magnet.metrics import rle_decode, rle_encode
from magnet.workbench.errors import error_kinds
from magnet.workbench.gallery import MEANINGS, tags_of, write_gallery
from magnet.workbench.overlay import STYLE, draw_answer, outline

HOSTILE = '</figcaption><script>document.title = "taken"</script><img src="http://example.org/x" onerror="alert(1)">'
NO_PICTURE = 0  # the answer whose picture is gone
LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
    "phone, dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """The page of answers to the shipped RefShapes, two splits, and the wrong ones in the page's order."""
    folder = tmp_path_factory.mktemp("gallery")
    shutil.copytree(ASSETS / "refshapes", folder / "refshapes")
    config = magnet.recipe("magnet_tiny")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(folder)))
    run, everything = runs.Run(folder / "guesser", config), read_refer(folder)
    runs.write_json(run.folder / "config.json", {"version": runs.VERSION, **runs.config_to_dict(config)})
    tables = []
    for split in ("val", "testB"):
        expressions = select_split(everything, split)
        runs.write_json(folder / "answers.json", answers_to(expressions))
        table = magnet.score(folder / "answers.json", config.data, split)
        table.loc[table["iou"].idxmin(), "text"] = HOSTILE
        runs.atomic_write(run.folder / "eval" / f"refshapes-{split}-original.parquet", table.to_parquet)
        tables.append(table.assign(split=split, error=error_kinds(table, expressions)))
    wrong = pd.concat(tables).query("error != 'right'").sort_values(["iou", "sent_id"], ignore_index=True)
    files = everything.set_index("image_id")["file"]
    (Path(everything.attrs["images"]) / files[wrong["image_id"].iloc[NO_PICTURE]].iloc[0]).unlink()
    return write_gallery(run), wrong.assign(tags=[tags_of(row) for _, row in wrong.iterrows()])


def answers_to(expressions: pd.DataFrame) -> list[dict]:
    """Wrong in many ways: the truth moved by some pixels, everything, and nothing."""
    answers = []
    for k, row in enumerate(expressions.itertuples()):
        truth = rle_decode(row.rle, row.height, row.width)
        mask = np.roll(truth, 3 * (k % 12), 1) if k % 7 else np.full(truth.shape, k % 2 == 0)
        answers.append({"sent_id": row.sent_id, "rle": rle_encode(mask)})
    return answers


class Window:
    """The page in a window without a network: what it complains about, and what it asks for beside itself."""

    def __init__(self, browser, file: Path, **look):
        self.context = browser.new_context(offline=True, **look)
        self.page, self.complaints, self.asked_for = self.context.new_page(), [], []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("request", lambda request: self.asked_for.append(request.url))
        self.page.goto(file.as_uri())
        self.own = {file.as_uri()}

    def check(self) -> None:
        asked_for = {url for url in self.asked_for if not url.startswith("data:")}
        assert asked_for == self.own and not self.complaints

    def control(self, label: str) -> Locator:
        return self.page.locator("label", has_text=re.compile(rf"^\s*{label}\b")).locator("select, input")

    def shown(self) -> list[int]:
        """The sentences whose pictures are there to see."""
        captions = self.page.locator("figure:visible figcaption").all_text_contents()
        return [int(re.search(r"sentence (\d+) of picture", caption)[1]) for caption in captions]


@pytest.fixture
def window(browser, written) -> Iterator[Window]:
    window = Window(browser, written[0], **LOOKS["light"])
    yield window
    window.check()
    window.context.close()


def look_of(part: Locator) -> Image.Image:
    return Image.open(io.BytesIO(part.screenshot())).convert("RGB")


def test_all_failures_are_there_and_their_pictures_painted(window, written):
    _, wrong = written
    assert len(wrong) > 20 and window.shown() == wrong["sent_id"].tolist()
    expect(window.page.locator("output")).to_have_text(f"{len(wrong)} of {len(wrong)} shown")
    figures = window.page.locator("figure")
    grey = [figures.nth(k).locator("image").count() == 0 for k in range(len(wrong))]
    assert grey == (wrong["image_id"] == wrong["image_id"].iloc[NO_PICTURE]).tolist()
    expect(window.page.get_by_text(f"{sum(grey)} pictures could not be read")).to_be_visible()
    for number in (grey.index(False), len(wrong) - 1):
        colours = look_of(figures.nth(number).locator("svg")).getcolors(10**6)
        assert colours and len(colours) > 1000
    window.page.screenshot(path=written[0].parent / "all.png")


FILTERS = [
    ({"split": "testB"}, lambda row: row["split"] == "testB"),
    ({"kind": "wrong_category"}, lambda row: row["error"] == "wrong_category"),
    ({"tag": "relation"}, lambda row: row["has_relation"]),
    ({"tag": "alone of its category"}, lambda row: row["num_same_category"] == 1),
    ({"IoU from": "0.25"}, lambda row: row["iou"] >= 0.25),
    ({"to": "0.0"}, lambda row: row["iou"] == 0),
    ({"words": "STAR"}, lambda row: "star" in row["text"].lower()),
    ({"words": "no such words"}, lambda row: False),
    ({"split": "val", "kind": "background", "words": "star"},
     lambda row: (row["split"], row["error"]) == ("val", "background") and "star" in row["text"]),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "rule"), FILTERS, ids=[" ".join([*a, *a.values()]) for a, _ in FILTERS])
def test_each_filter_lets_through_what_it_says(window, written, asked, rule):
    _, wrong = written
    expected = [row["sent_id"] for _, row in wrong.iterrows() if rule(row)]
    for label, value in asked.items():
        control = window.control(label)
        control.select_option(value) if label in ("split", "kind", "tag") else control.fill(value)
    expect(window.page.locator("output")).to_have_text(f"{len(expected)} of {len(wrong)} shown")
    assert window.shown() == expected and len(expected) < len(wrong)
    assert expected or "no such words" in asked.values()  # or nothing would be tested
    window.page.get_by_role("button", name="show all").click()
    expect(window.page.locator("output")).to_have_text(f"{len(wrong)} of {len(wrong)} shown")
    assert window.shown() == wrong["sent_id"].tolist()


def test_choices_say_how_many_they_would_show(window, written):
    _, wrong = written
    counts = {"split": wrong["split"].value_counts(), "kind": wrong["error"].value_counts(),
              "tag": wrong["tags"].explode().value_counts()}  # fmt: skip
    for label, expected in counts.items():
        choices = window.control(label).locator("option").all_text_contents()
        assert set(choices) == {"any", *(f"{name.replace('_', ' ')} ({n})" for name, n in expected.items())}


def test_it_works_by_keyboard(window, written):
    _, wrong = written
    press = window.page.keyboard.press
    press("Tab")
    press("Enter")  # all answers by kind
    for meaning in MEANINGS.values():
        expect(window.page.get_by_text(meaning, exact=True)).to_be_visible()
    press("Tab")
    press("ArrowDown")
    split = window.control("split").input_value()
    expect(window.page.locator("output")).to_have_text(f"{sum(wrong['split'] == split)} of {len(wrong)} shown")
    assert window.shown() == wrong.loc[wrong["split"] == split, "sent_id"].tolist()
    for _ in range(5):
        press("Tab")
    expect(window.control("words")).to_be_focused()
    window.page.keyboard.type("star")
    press("Enter")  # is no reason to load the page again
    found = wrong[(wrong["split"] == split) & wrong["text"].str.contains("star")]
    expect(window.page.locator("output")).to_have_text(f"{len(found)} of {len(wrong)} shown")
    assert window.shown() == found["sent_id"].tolist() and len(found)
    press("Tab")
    press("Enter")
    expect(window.page.locator("output")).to_have_text(f"{len(wrong)} of {len(wrong)} shown")
    assert window.shown() == wrong["sent_id"].tolist()


def test_sentences_of_the_data_do_nothing(window, written):
    caption = window.page.locator("figcaption", has_text="onerror").first
    expect(caption).to_contain_text(HOSTILE)
    assert window.page.title() == "Failures of guesser" and window.page.locator("img").count() == 0


@pytest.mark.parametrize("name", LOOKS)
def test_it_is_readable(browser, written, name):
    window = Window(browser, written[0], **LOOKS[name])
    window.page.locator("summary").click()
    body = window.page.locator("body")
    assert not cut_off(body) and not faint(body)
    assert window.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    brightness = np.asarray(look_of(window.page.locator("h1")).convert("L")).mean()
    assert (brightness < 80) == ("dark" in name)
    window.page.screenshot(path=written[0].parent / f"{name}.png")
    window.page.locator("figure").nth(10).scroll_into_view_if_needed()
    covered = window.page.evaluate("Math.max(0, document.querySelector('form').getBoundingClientRect().bottom)")
    assert covered < 0.15 * LOOKS[name]["viewport"]["height"]  # of the window, while one looks at pictures
    window.page.screenshot(path=written[0].parent / f"{name}, further down.png")
    window.check()
    window.context.close()


def test_without_javascript_everything_is_shown(browser, written):
    file, wrong = written
    window = Window(browser, file, java_script_enabled=False, **LOOKS["light"])
    assert window.shown() == wrong["sent_id"].tolist()
    expect(window.page.get_by_text("The filters need JavaScript")).to_be_visible()
    expect(window.page.locator("form")).to_be_hidden()
    window.context.close()


@pytest.mark.parametrize("pixels", [20, 2000])
def test_outlines_are_as_wide_on_small_pictures_as_on_large_ones(browser, pixels):
    mask = np.zeros((pixels, pixels), bool)
    mask[pixels // 4 : 3 * pixels // 4, pixels // 4 : 3 * pixels // 4] = True
    page = browser.new_page()
    page.set_content(f"<style>{STYLE}</style>{draw_answer('', mask.shape, answer=outline(mask))}")
    row = np.asarray(look_of(page.locator("svg")))
    row = row[len(row) // 2]
    canvas, fill = row[20], row[len(row) // 2]
    line = (np.abs(row.astype(int) - canvas).max(1) > 3) & (np.abs(row.astype(int) - fill).max(1) > 3)
    assert 3 <= line[: len(row) // 2].sum() <= 6  # pixels of the screen
    page.close()
