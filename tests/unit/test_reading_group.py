"""The reading group's page names only what is there, and quotes its numbers from committed tables."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from magnet import cli
from magnet.workbench.studies import STUDIES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reading_group.md"
TEXT = PAGE.read_text(encoding="utf-8")
CODE = re.findall(r"`([^`\n]+)`", TEXT)


def test_every_file_that_it_names_is_there():
    made = ("slides/", "results/explore/")  # by the command that the page gives beside them
    files = [name for name in CODE if "/" in name and "." in name.split("/")[-1] and not name.startswith(made)]
    links = [PAGE.parent / link for link in re.findall(r"\]\(([^)]+)\)", TEXT)]
    assert len(files) > 20 and len(links) > 20
    assert [str(path) for path in [*(ROOT / name for name in files), *links] if not path.exists()] == []


def test_every_command_and_study_that_it_names_is_there():
    commands = [name.split() for name in CODE if name.startswith("magnet ")]
    for words in commands:
        assert words[1] in cli.COMMANDS or " ".join(words[1:3]) in cli.COMMANDS, words
    asked = {words[2] for words in commands if words[1] == "ablate"}
    assert asked and asked <= STUDIES.keys()
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{name.split()[1]}:" in makefile for name in CODE if name.startswith("make "))


def test_every_heading_that_it_quotes_stands_in_a_notebook_or_page():
    places = [*(ROOT / "notebooks").glob("[0-9]*.ipynb"), ROOT / "CONTRIBUTING.md"]
    headings = set(re.findall(r"#+ ([^\"\\\n]+)", "\n".join(path.read_text(encoding="utf-8") for path in places)))
    plans = TEXT.split("## Four sessions")[1].split("## Questions")[0]
    quoted = re.findall(r'"([^"]+)"', plans)
    assert len(quoted) > 5 and [one for one in quoted if one.rstrip(",") not in headings] == []


def number(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def test_effects_are_those_of_the_study():
    effects = pd.read_csv(ROOT / "results/tables/study_components_effects.csv")
    effects = effects[(effects["split"] == "val") & (effects["score"] == "oIoU")]
    rows = [f"| {row.contrast} | {number(row.difference)} | {number(row.seed_low)} to {number(row.seed_high)} "
            f"| {number(row.image_low)} to {number(row.image_high)} |" for row in effects.itertuples()]  # fmt: skip
    three = "Mask Grounding × CAM × CAL"
    assert [row for row in rows if row not in TEXT and three not in row] == [] and len(rows) == 8


@pytest.mark.parametrize("name", ["04_fusion", "07_alignment"])
def test_notebooks_become_slides(name):
    from nbconvert import SlidesExporter

    preprocessor = re.search(r"preprocessors=\"\['([\w.]+)'\]\"", TEXT)[1]
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    num_headings = sum(len(re.findall(r"^##? ", c.source, flags=re.M)) for c in notebook.cells if c.cell_type != "code")
    num_code = sum(cell.cell_type == "code" for cell in notebook.cells)
    html, _ = SlidesExporter(preprocessors=[preprocessor]).from_notebook_node(notebook)
    assert html.count("<section") == 2 * num_headings + num_code  # each column of slides is a section, too


def test_every_answer_names_a_heading_of_its_notebook():
    text = (ROOT / "docs/questions.md").read_text(encoding="utf-8")
    questions, answers = text.split("## Answers")
    rows = [line.strip("| ").split(" | ") for line in answers.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == len(re.findall(r"^\d+\. .*\?$", questions, flags=re.M)) == 20
    for number, _, notebook, heading in rows:
        (path,) = (ROOT / "notebooks").glob(f"{notebook}_*.ipynb")
        cells = nbformat.read(path, as_version=4).cells
        assert any(f"## {heading}" in cell.source.splitlines() for cell in cells), (number, heading)
