"""The notebooks as a person uses them: a real JupyterLab in a real browser, phrases typed, keys pressed, pictures seen.

Minutes; pictures of what was on the screen are left in pytest's folder: pytest tests/browser --basetemp FOLDER
"""

import json
import re
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright", reason="pip install -e .[dev], for playwright; apt-get install chromium")

from lab import Lab, cut_off, faint, serve
from playwright.sync_api import expect

NOTE = "it took the ring for the star"


@pytest.fixture(scope="module")
def window(browser, tmp_path_factory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    with serve(folder) as address:
        yield Lab(browser, address, folder)


@pytest.fixture
def lab(window) -> Iterator[Lab]:
    """The same window for all tests; what goes wrong in its JavaScript fails the test that did it."""
    yield window
    assert not window.errors


def outline_of(answer) -> str:
    """The path that is drawn for an answer."""
    name = answer.locator("use.answer:not(.under)").first.get_attribute("href")
    return answer.locator(f"path{name}").first.get_attribute("d")


def test_lab_finds_the_extensions_that_widgets_need(lab):
    config = json.loads(lab.page.locator("#jupyter-config-data").text_content())
    found = {extension["name"] for extension in config["federated_extensions"]}
    assert {"@jupyter-widgets/jupyterlab-manager", "anywidget"} <= found


def test_a_newcomer_types_a_phrase_in_the_first_notebook(lab):
    lab.open("00_start_here.ipynb")
    lab.run_all()
    playground = lab.find(".magnet-playground")
    expect(playground.locator("figcaption", has_text="now:").first).to_be_visible()
    before, phrase = outline_of(playground), playground.get_by_placeholder("what to look for")
    phrase.fill("the ring")
    phrase.press("Enter")
    expect(playground.locator("figcaption", has_text="now: the ring")).to_be_visible()
    expect(playground.get_by_text("working")).to_have_count(0)
    assert outline_of(playground) != before
    expect(playground.locator("figcaption", has_text=re.compile("^[12] (the|ring)$"))).to_have_count(2)
    assert not cut_off(playground) and not faint(playground)
    lab.look(playground, "playground")


@pytest.fixture(scope="module")
def failures(window) -> Lab:
    window.open("11_failures.ipynb")
    window.run_all()
    return window


def explorer_of(lab: Lab):
    """The notebook's explorer with every answer in it, its list of rows, and the sentence that its picture shows."""
    explorer = lab.find(".magnet-explorer").first
    explorer.get_by_label("error").select_option("any")
    kinds = explorer.get_by_label("error").text_content()
    counts = [int(count) for count in re.findall(r"\((\d+)\)", kinds)][1:]  # the first is of all but right
    expect(explorer.get_by_text(f"; {sum(counts)} expressions")).to_be_visible()
    return explorer, explorer.locator(".magnet-list select"), explorer.locator(".magnet-facts b")


def shows(rows, sentence, index: int) -> None:
    """The row of that index is chosen, and its sentence stands below the picture."""
    expect(rows).to_have_js_property("selectedIndex", index)
    said = rows.locator("option").nth(index).text_content().replace("\xa0", " ")
    assert said.strip()
    expect(sentence).to_have_text(re.compile(re.escape(said[4:].split("  ")[-1].strip()) + "$"))


def test_filters_change_rows_and_picture(lab, failures):
    explorer, rows, sentence = explorer_of(lab)
    everything, drawn = rows.locator("option").all_text_contents(), explorer.locator("figure").first.inner_html()
    word = everything[-1].split()[-1]
    explorer.get_by_placeholder("part of a sentence").fill(word)
    expect(rows.locator("option").filter(has_not_text=word)).to_have_count(0)
    shows(rows, sentence, 0)
    explorer.get_by_placeholder("part of a sentence").fill("no such words")
    expect(explorer.get_by_text("no answer is selected")).to_be_visible()
    explorer.get_by_placeholder("part of a sentence").fill("")
    expect(rows.locator("option")).to_have_count(len(everything))
    assert explorer.locator("figure").first.inner_html() == drawn
    assert not cut_off(explorer) and not faint(explorer)
    lab.look(explorer, "explorer")


def test_keys_walk_and_leave_the_notebook_alone(lab, failures):
    explorer, rows, sentence = explorer_of(lab)
    cells, press = lab.find(".jp-Cell").count(), lab.page.keyboard.press
    rows.locator("option").first.click()
    for key, index in [("j", 1), ("ArrowRight", 2), ("k", 1), ("j", 2), ("ArrowLeft", 1)]:
        press(key)
        shows(rows, sentence, index)
    for key in "dd":  # deletes a cell where JupyterLab hears it
        press(key)
    explorer.get_by_placeholder("part of a sentence").click()
    press("Tab")  # to the next field
    press("k")
    shows(rows, sentence, 0)
    assert lab.find(".jp-Cell").count() == cells


def test_a_note_survives_the_kernel(lab, failures):
    explorer, rows, sentence = explorer_of(lab)
    press, note = lab.page.keyboard.press, explorer.locator(".magnet-note textarea")
    rows.locator("option").nth(1).click()
    shows(rows, sentence, 1)
    press("n")
    expect(note).to_be_focused()
    lab.page.keyboard.type(NOTE)  # its letters are no keys here
    press("Escape")
    press("j")
    shows(rows, sentence, 2)
    expect(note).to_have_value("")
    (file,) = lab.folder.rglob("notes-*.json")
    assert [kept["text"] for kept in json.loads(file.read_text()).values()] == [NOTE]
    lab.run_up_to(".magnet-explorer")
    explorer, rows, sentence = explorer_of(lab)
    explorer.get_by_label("notes").select_option("with a note")
    expect(rows.locator("option")).to_have_count(1)
    expect(explorer.locator(".magnet-note textarea")).to_have_value(NOTE)


def test_everything_is_readable_in_the_dark(lab, failures):
    lab.theme("JupyterLab Dark")
    for name in ("magnet-explorer", "magnet-compare"):
        widget = lab.find(f".{name}").first
        lab.look(widget, f"{name}-dark")
        assert not cut_off(widget) and not faint(widget)
