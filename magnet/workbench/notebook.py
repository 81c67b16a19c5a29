"""The notebooks' machinery: one line that sets a notebook up, one command that runs them, one gate they must pass.

magnet notebooks run [--smoke] [--in-place] [00 01 ...]
python -m magnet.workbench.notebook          # writes notebooks/README.md from the notebooks' own words
"""

import base64
import io
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

import magnet
from magnet import runs
from magnet.workbench.demo import RECIPE

FOLDER, FIGURES, TABLE = Path("notebooks"), Path("results/figures"), Path("results/tables/notebooks.csv")
MAX_BYTES, MAX_LINES, AIM_LINES, MAX_WIDTH, NUM_CELLS = 300_000, 30, 15, 100, (20, 35)
PARTS = {  # what every notebook has, as patterns over its text cells
    "a title that is a question": r"\A# .*\?\n",
    **{f"the box line {name}": rf"\| \*\*{name}\*\* \|" for name in ("Needs", "Minutes", "Writes", "Last run")},
    "the picture of the result": r"!\[[^\]]+\]\(",
    **{f"the heading {name!r}": rf"^## {name}$" for name in (
        "Guess before you run", "What we found", "What would change our mind", "Exercises", "Next", "References")},
    "three exercises": r"^## Exercises\n(?s:.*)^3\. ",
    "a link to its solutions": r"\]\(solutions/",
}  # fmt: skip
FORBIDDEN = {  # what code cells leave to the package
    "a shell or magic command": r"^\s*[!%]", "pip": r"\bpip\b", "a change of folder": r"\bchdir\b",
    "a class": r"^\s*class\s",
}  # fmt: skip
WIDGET = "application/vnd.jupyter.widget"
PEAK = """import pathlib, resource, sys
status = pathlib.Path("/proc/self/status")  # on Linux the library counts in the process that started this one
kept = [line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line] if status.exists() else []
peak = int(kept[0]) if kept else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak / (1e9 if sys.platform == "darwin" else 1e6))"""


@dataclass(frozen=True)
class Notebook:
    """What a notebook's cells share. `root` holds the data: the user's RefShapes, or the mini that ships with it."""

    seed: int
    smoke: bool
    device: str
    root: str

    def steps(self, full: int, smoke: int) -> int:
        """`full`, or `smoke` where MAGNET_SMOKE=1 only checks that everything runs."""
        return smoke if self.smoke else full

    def config(self, num_steps: int, val_every: int | None = None, recipe: str = RECIPE):
        """A recipe, the demo's by default, on this notebook's data for a few steps, validated on 60 expressions.

        In this process alone, with one process's share of a batch: a second one would take longer to start.
        """
        recipe = magnet.recipe(recipe, seed=self.seed)
        optim = replace(
            recipe.optim, num_steps=num_steps, warmup_steps=0, val_every=val_every or num_steps, val_expressions=60,
            num_processes=1, batch_size=recipe.optim.batch_size // recipe.optim.num_processes,
        )  # fmt: skip
        vision = replace(recipe.model.vision, pretraining_steps=self.steps(recipe.model.vision.pretraining_steps, 2))
        model, data = replace(recipe.model, vision=vision), replace(recipe.data, root=self.root)
        return replace(recipe, recipe="notebook", model=model, data=data, optim=optim)

    def find_run(self, source: str | Path = "refshapes-tiny") -> runs.Run:
        """A run as `runs.find` takes it; weights that come with the package are put on this notebook's data."""
        run = runs.find(source)
        if not run.is_shipped:
            return run
        return replace(run, config=replace(run.config, data=replace(run.config.data, root=self.root)))

    def demo_run(self):
        """The longest finished run of the demo's recipe; where there is none, or in smoke mode, one of a few steps."""
        folders = [] if self.smoke else [path.parent for path in runs.ROOT.glob(f"{RECIPE}-*/config.json")]
        known = [run for run in map(_readable, folders) if run and run.is_finished]
        known = [run for run in known if (run.config.data.name, run.config.data.words) == ("refshapes", "sentence")]
        if known:
            return max(known, key=lambda run: (run.config.optim.num_steps or 0, run.name))
        print("No finished demo run here: a short one is trained, and its masks are rough. For good ones: magnet demo")
        return magnet.fit(self.config(self.steps(60, 2)))


def _readable(folder: Path) -> runs.Run | None:
    """None for the run of an older version, which has other settings."""
    try:
        return runs.read_run(folder)
    except ValueError:
        return None


def setup(seed: int = 0) -> Notebook:
    """Seed everything, set the figure style, and work from the project's folder wherever Jupyter was started."""
    import torch
    from accelerate.utils import set_seed
    from matplotlib import pyplot

    from magnet.workbench import plots

    set_seed(seed)
    logging.getLogger("magnet").handlers = [logging.StreamHandler(sys.stdout)]  # plain text, not a red box
    pyplot.switch_backend(pyplot.get_backend())  # from here on Jupyter shows figures
    pyplot.rcParams.update(plots.STYLE)
    here = Path.cwd()
    os.chdir(next((folder for folder in (here, *here.parents) if (folder / FOLDER / "_template.ipynb").exists()), here))
    smoke = os.environ.get("MAGNET_SMOKE") == "1"
    return Notebook(seed, smoke, "cuda" if torch.cuda.is_available() else "cpu", _data_root(smoke))


def _data_root(smoke: bool) -> str:
    own = magnet.data.data_root()
    use_own = not smoke and (own / "refshapes" / "instances.json").exists()
    return str(own if use_own else Path(magnet.__file__).parent / "assets")


def find_notebooks(names: Sequence[str | Path] = ()) -> list[Path]:
    """Notebooks by path or by the start of their name ("01"), all of them and their solutions without names, in order.

    Raises FileNotFoundError for a name that fits none.
    """
    known = [*sorted(FOLDER.glob("[_0-9]*.ipynb")), *sorted(FOLDER.glob("solutions/*.ipynb"))]
    found = [[Path(n)] if Path(n) in known else [p for p in known if p.name.startswith(str(n))] for n in names]
    if names and not all(found):
        missing = [str(name) for name, paths in zip(names, found) if not paths]
        there = ", ".join(path.stem for path in known)
        raise FileNotFoundError(f"no notebook {', '.join(missing)} in {FOLDER.resolve()}; there are {there}")
    return [path for path in known if not names or any(path in paths for paths in found)]


def run_notebooks(
    paths: Sequence[str | Path] | None = None, smoke: bool = False, in_place: bool = False, csv: Path | None = TABLE
) -> pd.DataFrame:
    """Run notebooks, each in a fresh kernel, in order.

    Args:
        paths: as in `find_notebooks`. smoke: MAGNET_SMOKE=1, which shrinks every loop.
        in_place: store the outputs, and the cell tagged "result" as results/figures/<name>.png.
        csv: where to record the minutes and the kernel's peak memory, beside what other notebooks have there.
    Returns that table. Raises RuntimeError naming notebook and cell where one fails, ValueError where an output to be
    stored would not pass the gate.
    """
    if smoke and in_place:
        raise ValueError("smoke mode only checks that the notebooks run: its outputs are not stored")
    if not find_spec("nbclient"):
        raise ValueError(
            "running notebooks needs nbclient and its friends; install them with: pip install -e .[notebooks]"
        )
    table = pd.DataFrame()
    for path in find_notebooks(paths or ()):
        print(f"{path} ...", end=" ", flush=True)
        notebook, minutes, peak = _execute(path, smoke)
        print(f"{minutes:.1f} min, {peak:.1f} GB", flush=True)
        command = f"magnet notebooks run{' --smoke' * smoke}{' --in-place' * in_place} {path.stem}"
        if in_place:
            _store(notebook, path, minutes, command)
        row = {"notebook": str(path), "smoke": smoke, "minutes": round(minutes, 2), "peak_gb": round(peak, 2),
               "cores": os.cpu_count(), "date": str(date.today()), "command": command}  # fmt: skip
        table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
        if csv:
            _record(table, Path(csv))
    return table


def _execute(path: Path, smoke: bool) -> tuple:
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "MAGNET_SMOKE": str(int(smoke))}
    resources = {"metadata": {"path": str(FOLDER.resolve())}}
    client = NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources=resources, coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    )  # fmt: skip
    start = time.perf_counter()
    try:
        with client.setup_kernel(env=environment):
            for index, cell in enumerate(list(notebook.cells)):
                client.execute_cell(cell, index)
            minutes = (time.perf_counter() - start) / 60
            notebook.cells.append(nbformat.v4.new_code_cell(PEAK))
            client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
    except CellExecutionError as error:
        raise RuntimeError(f"{path}, cell {index + 1}: {error}") from error
    return notebook, minutes, float(notebook.cells.pop().outputs[0].text)


def _record(table: pd.DataFrame, csv: Path) -> None:
    if csv.exists():
        table = pd.concat([pd.read_csv(csv), table]).drop_duplicates(["notebook", "smoke"], keep="last")
    runs.atomic_write(csv, lambda file: table.sort_values(["smoke", "notebook"]).to_csv(file, index=False))


def _store(notebook, path: Path, minutes: float, command: str) -> None:
    import nbformat

    clean(notebook)
    info = runs.environment()
    stamp = (f"{date.today()}, commit {info['commit']}, magnet {magnet.__version__}, torch "
             f"{info['packages']['torch']}, {minutes:.1f} min on {info['processor']}")  # fmt: skip
    for cell in notebook.cells:
        cell.source = re.sub(r"(\| \*\*Last run\*\* \|).*\|", rf"\1 {stamp} |", cell.source)
        if "result" in cell.metadata.get("tags", []):
            picture = next(out.data["image/png"] for out in cell.outputs if "image/png" in out.get("data", {}))
            _save_picture(picture, FIGURES / f"{path.stem}.png", command)
    problems = check(notebook, is_solution=path.parent.name == "solutions")
    if problems:
        raise ValueError(f"{path} was not stored: {'; '.join(problems)}")
    runs.atomic_write(path, lambda file: nbformat.write(notebook, file))


def _save_picture(png: str, path: Path, command: str) -> None:
    from PIL import Image, PngImagePlugin

    made_by = PngImagePlugin.PngInfo()
    made_by.add_text("Command", command)
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    runs.atomic_write(path, lambda file: picture.save(file, "png", pnginfo=made_by, optimize=True))


def clean(notebook) -> None:
    """Keep what a reader sees: no widget state, timings or kernel versions; counts from 1; pictures of 128 colours."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith(WIDGET)}
            if "image/png" in data:
                data["image/png"] = _shrink(data["image/png"])
            if "data" in output:
                output.data = data


def _shrink(png: str) -> str:
    from PIL import Image

    picture, buffer = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(128, Image.Quantize.MAXCOVERAGE, kmeans=1).save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def check_notebook(path: str | Path) -> list[str]:
    """What keeps a notebook from being committed, in words; empty where nothing does. Solutions have a freer form."""
    import nbformat

    path = Path(path)
    return check(nbformat.read(path, as_version=4), is_solution=path.parent.name == "solutions")


def check(notebook, is_solution: bool = False) -> list[str]:
    """`check_notebook` for a notebook in memory."""
    import nbformat

    size = len(nbformat.writes(notebook).encode())
    problems = [f"{size:,} bytes, {MAX_BYTES:,} are allowed"] if size > MAX_BYTES else []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        problems.append(
            f"execution counts are not 1 to {len(code)} in order: run it with magnet notebooks run --in-place"
        )
    if "widgets" in notebook.metadata:
        problems.append("widget state in the metadata")
    for number, cell in enumerate(code, 1):
        problems += [f"code cell {number}: {what}" for what in _code_problems(cell.source) + _output_problems(cell)]
    return problems if is_solution else problems + _form_problems(notebook.cells, code)


def _code_problems(source: str) -> list[str]:
    num_lines = len(source.splitlines())
    problems = [f"{num_lines} lines, {MAX_LINES} are allowed"] if num_lines > MAX_LINES else []
    widest = max(map(len, source.splitlines()), default=0)
    problems += [f"a line of {widest} characters, {MAX_WIDTH} fit a page"] if widest > MAX_WIDTH else []
    return problems + [f"holds {what}" for what, rule in FORBIDDEN.items() if re.search(rule, source, re.MULTILINE)]


def _output_problems(cell) -> list[str]:
    problems = []
    for output in cell.outputs:
        if output.output_type == "error":
            problems.append(f"ended in {output.ename}")
        if output.get("name") == "stderr":
            problems.append(f"a warning or other text on stderr: {output.text.strip()[:80]!r}")
        if any(kind.startswith(WIDGET) for kind in output.get("data", {})):
            problems.append("a widget without a kernel to run it")
        words = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        if found := re.search(r"/(home|root|work|tmp|Users)/\S*", words):
            problems.append(f"shows the path of one machine, {found[0]}")
    return problems


def _form_problems(cells: list, code: list) -> list[str]:
    problems = []
    if not NUM_CELLS[0] <= len(cells) <= NUM_CELLS[1]:
        problems.append(f"{len(cells)} cells, not {NUM_CELLS[0]} to {NUM_CELLS[1]}")
    if sum(len(cell.source.splitlines()) > AIM_LINES for cell in code) > 2:
        problems.append(f"more than two code cells are longer than {AIM_LINES} lines")
    if sum("notebook.setup(" in cell.source for cell in code) != 1:
        problems.append("not exactly one setup cell")
    if sum(bool(re.search(r"^assert ", cell.source, re.MULTILINE)) for cell in code) < 3:
        problems.append("fewer than three cells that assert what they claim")
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return problems + [f"lacks {what}" for what, rule in PARTS.items() if not re.search(rule, text, re.MULTILINE)]


def index() -> str:
    """notebooks/README.md: every notebook's question, what one ends up with, and its minutes, in its own words."""
    import nbformat

    lines = ["# Notebooks", "", "Written by `python -m magnet.workbench.notebook` from the notebooks' own words. Open "
             "them with `make lab`; run them all with `magnet notebooks run`.", "",
             "| | question | you end up | minutes |", "|---|---|---|---|"]  # fmt: skip
    for path in sorted(FOLDER.glob("[0-9]*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        title, result = cells[0].source.split("\n\n")[:2]
        minutes = re.search(r"\| \*\*Minutes\*\* \| (.*) \|", "\n".join(cell.source for cell in cells))[1]
        number, question = title.removeprefix("# ").split(" · ")
        lines.append(f"| [{number}]({path.name}) | {question} | {result.removeprefix('You end up ')} | {minutes} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    runs.atomic_write(FOLDER / "README.md", lambda file: file.write_text(index(), encoding="utf-8"))
