"""The gate for committed notebooks: every one passes it, and it sees what it is there to see."""

import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat import v4
from PIL import Image

from magnet.workbench import notebook as machinery

COMMITTED = [*sorted(Path("notebooks").glob("*.ipynb")), *sorted(Path("notebooks/solutions").glob("*.ipynb"))]
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.mark.parametrize("path", COMMITTED, ids=str)
def test_committed_notebook_passes(path):
    assert machinery.check_notebook(path) == []


def test_readme_is_current():
    assert Path("notebooks/README.md").read_text(encoding="utf-8") == machinery.index()


@pytest.mark.parametrize("path", [p for p in COMMITTED if p.parent.name == "notebooks" and p.name[0] != "_"], ids=str)
def test_exercises_have_solutions(path):
    assert (path.parent / "solutions" / path.name).exists()


def png(seed: int | None = None, size: int = 64) -> str:
    pixels = (
        np.zeros((size, size, 3)) if seed is None else np.random.default_rng(seed).integers(0, 255, (size, size, 3))
    )
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def good():
    """A notebook with all it needs: 12 text cells, then 10 code cells, the first of them the setup."""
    box = "| | |\n|---|---|\n| **Needs** | a |\n| **Minutes** | 1 |\n| **Writes** | b |\n| **Last run** | never |"
    headings = ("Guess before you run", "What we found", "What would change our mind", "Next", "References")
    texts = ["# 09 · Does it work?\n\nYou end up with a picture.", box, "![a picture](../results/figures/x.png)"]
    texts += [f"## {name}\n\nwords" for name in headings]
    texts += ["## Exercises\n\n1. a\n2. b\n3. c\n\n[Solutions](solutions/x.ipynb)", "more", "and more", "the end"]
    sources = ["nb = notebook.setup()", *["x = 1\nassert x == 1"] * 9]
    output = v4.new_output("stream", name="stdout", text="fine\n")
    code = [v4.new_code_cell(source, execution_count=i, outputs=[output]) for i, source in enumerate(sources, 1)]
    return v4.new_notebook(cells=[*map(v4.new_markdown_cell, texts), *code])


def last(notebook):
    return notebook.cells[-1]


def output(**fields):
    return lambda notebook: last(notebook).outputs.append(v4.new_output(**fields))


def source(text: str, cell: int = -1):
    return lambda notebook: notebook.cells[cell].update(source=text)


BAD = {
    "bytes": output(output_type="display_data", data={"image/png": png(0, 400)}),
    "counts are not 1 to 10": lambda notebook: last(notebook).update(execution_count=12),
    "counts are not": lambda notebook: last(notebook).update(execution_count=None),
    "widget state": lambda notebook: notebook.metadata.update(widgets={}),
    "a widget without": output(output_type="display_data", data={WIDGET: {"model_id": "0"}}),
    "ended in KeyError": output(output_type="error", ename="KeyError", evalue="x", traceback=[]),
    "on stderr: 'UserWarning: old'": output(output_type="stream", name="stderr", text="UserWarning: old"),
    "path of one machine, /home/me/x": output(output_type="stream", name="stdout", text="in /home/me/x now"),
    "31 lines": source("\n".join(["x = 1"] * 31)),
    "a line of 101 characters": source("x" * 101),
    "longer than 15": lambda notebook: [source("\n".join(["x = 1"] * 16), cell)(notebook) for cell in (-1, -2, -3)],
    "shell or magic": source("!ls"),
    "magic": source("x = 1\n%cd .."),
    "holds pip": source("import pip"),
    "change of folder": source("os.chdir('..')"),
    "holds a class": source("class Model:\n    pass"),
    "setup cell": source("nb = notebook.setup()"),
    "19 cells": lambda notebook: notebook.cells.__delitem__(slice(-5, -2)),
    "36 cells": lambda notebook: notebook.cells.extend(v4.new_markdown_cell("x") for _ in range(14)),
    "assert": lambda notebook: [cell.update(source="x = 1") for cell in notebook.cells[-9:-2]],
    "a title that is a question": source("# 09 · It works.\n\nYou end up with it.", 0),
    "box line Last run": source("| **Needs** | a |", 1),
    "the picture of the result": source("no picture", 2),
    "'Guess before you run'": source("words", 3),
    "'References'": source("words", 7),
    "three exercises": source("## Exercises\n\n1. a\n2. b\n\n[Solutions](solutions/x.ipynb)", 8),
    "link to its solutions": source("## Exercises\n\n1. a\n2. b\n3. c", 8),
}


def test_a_good_notebook_passes():
    assert machinery.check(good()) == []


@pytest.mark.parametrize("problem", BAD)
def test_a_bad_notebook_is_refused(problem):
    notebook = good()
    BAD[problem](notebook)
    found = machinery.check(notebook)
    assert any(problem in line for line in found), found


def test_solutions_need_no_form_but_clean_code():
    notebook = good()
    notebook.cells = notebook.cells[12:]
    assert machinery.check(notebook, is_solution=True) == []
    source("!ls")(notebook)
    assert machinery.check(notebook, is_solution=True) == ["code cell 10: holds a shell or magic command"]


def test_cleaning_leaves_what_a_reader_sees():
    notebook = good()
    cell = last(notebook)
    notebook.metadata["widgets"] = {"state": {}}
    cell.metadata.update(execution={"iopub.execute_input": "now"}, tags=["result"])
    data = {WIDGET: {"model_id": "0"}, "image/png": png(1), "text/plain": "Figure"}
    cell.outputs = [v4.new_output("execute_result", data=data, execution_count=33)]
    cell.execution_count = 33
    machinery.clean(notebook)
    assert machinery.check(notebook) == []
    assert set(last(notebook).outputs[0].data) == {"image/png", "text/plain"}
    assert last(notebook).metadata == {"tags": ["result"]}
    assert last(notebook).outputs[0].execution_count == 10
    assert len(last(notebook).outputs[0].data["image/png"]) < len(png(1))


@pytest.fixture
def series(tmp_path, monkeypatch):
    """A folder with notebooks/00_a.ipynb, 01_b.ipynb and a solution, made the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("notebooks/solutions").mkdir(parents=True)
    for name in ("00_a", "01_b", "solutions/00_a"):
        nbformat.write(good(), f"notebooks/{name}.ipynb")
    return tmp_path


def test_names_find_notebooks_in_order(series):
    names = [str(path) for path in machinery.find_notebooks(["01", "00"])]
    assert names == ["notebooks/00_a.ipynb", "notebooks/01_b.ipynb", "notebooks/solutions/00_a.ipynb"]
    assert len(machinery.find_notebooks()) == 3
    with pytest.raises(FileNotFoundError, match=r"no notebook 07 .*there are 00_a, 01_b"):
        machinery.find_notebooks(["07"])


def write(path: str, *sources: str, **metadata):
    cells = [v4.new_code_cell(source, metadata=metadata) for source in sources]
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("| **Last run** | never |"), *cells]), path)


def test_run_measures_and_stores(series):
    path = "notebooks/solutions/00_a.ipynb"
    write(path, "import os\nprint('smoke', os.environ['MAGNET_SMOKE'])")
    table = machinery.run_notebooks([path], csv=series / "n.csv")
    assert "never" in Path(path).read_text()  # not in place: nothing is stored
    assert 0 < table["minutes"].item() < 1 and 0.01 < table["peak_gb"].item() < 2
    machinery.run_notebooks([path], in_place=True, csv=series / "n.csv")
    stored = nbformat.read(path, 4)
    assert stored.cells[1].outputs[0].text == "smoke 0\n"
    assert "torch" in stored.cells[0].source and len(stored.cells) == 2
    assert len((series / "n.csv").read_text().splitlines()) == 2  # the second run replaced the first one's row


def test_the_result_becomes_a_picture_that_names_its_command(series):
    path = "notebooks/solutions/00_a.ipynb"
    Path("notebooks/x.png").write_bytes(base64.b64decode(png(1)))
    write(path, "from IPython.display import Image\nImage('x.png')", tags=["result"])
    machinery.run_notebooks([path], in_place=True, csv=None)
    picture = Image.open("results/figures/00_a.png")
    assert picture.size == (64, 64) and picture.text["Command"] == "magnet notebooks run --in-place 00_a"


def test_a_failing_cell_is_named(series):
    write("notebooks/01_b.ipynb", "x = 1", "assert x == 2, 'x is one'")
    with pytest.raises(RuntimeError, match=r"01_b.ipynb, cell 3: (?s:.*)x is one"):
        machinery.run_notebooks(["01"], smoke=True, csv=None)


def test_what_would_not_pass_is_not_stored(series):
    path = Path("notebooks/01_b.ipynb")
    write(path, "import warnings; warnings.warn('old')")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"was not stored: .*on stderr"):
        machinery.run_notebooks(["01"], in_place=True)
    assert path.read_bytes() == before


def test_smoke_outputs_are_never_stored(series):
    with pytest.raises(ValueError, match="smoke mode"):
        machinery.run_notebooks(smoke=True, in_place=True)


def test_the_minutes_a_notebook_says_are_no_fewer_than_were_measured():
    table = pd.read_csv(machinery.TABLE)
    measured = table[~table["smoke"]].set_index("notebook")["minutes"]
    for path in sorted(machinery.FOLDER.glob("[0-9]*.ipynb")):
        said = re.search(r"\*\*Minutes\*\* \| (?:under )?(\d+) on a laptop", path.read_text())[1]
        assert int(said) >= measured[f"notebooks/{path.name}"] - 0.5, path.name
