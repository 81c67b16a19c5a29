"""`magnet explore RUN`: JupyterLab on the notebook that asks where and why a run fails.

open_lab("refshapes-tiny")              # takes this process's place until JupyterLab is stopped
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import magnet
from magnet import runs
from magnet.workbench.notebook import FOLDER

NOTEBOOK = FOLDER / "11_failures.ipynb"
STARTS_WITH = 'nb.find_run("refshapes-tiny")'  # where the notebook names its run


def open_lab(source: str | Path, port: int | None = None, browser: bool = True) -> None:
    """JupyterLab on a copy of notebook 11 that is about a run (`write_copy`).

    Args: source: as `runs.find` takes it; port: None: 8888, or the next one that is free; browser: open one.
    Raises FileNotFoundError for a run that does not exist or has no weights, or where the notebooks are not at hand,
    ValueError where JupyterLab is not installed, and as `write_copy` does.
    """
    run = runs.find(source)
    run.checked_weights()
    project = find_project()
    if not find_spec("jupyterlab"):
        raise ValueError("magnet explore needs JupyterLab; install it with: pip install -e .[notebooks]")
    copy = write_copy(project, run)
    print(f"{copy} is yours: it keeps what you change there; delete it for a fresh one")
    command = [sys.executable, "-m", "jupyterlab", str(copy), f"--ServerApp.root_dir={project}"]
    command += [f"--ServerApp.port={port}"] * (port is not None) + ["--no-browser"] * (not browser)
    command += ["--allow-root"] * (os.geteuid() == 0)  # as one is in a container; JupyterLab must be told
    sys.stdout.flush()
    os.execv(sys.executable, command)  # Ctrl-C is JupyterLab's


def write_copy(project: Path, run: runs.Run) -> Path:
    """explore-RUN.ipynb beside notebook 11: its cells on that run, without the outputs of another network.

    A copy of the run that is there already is left as it is. Raises FileExistsError where it is about another run of
    the same name.
    """
    import nbformat

    path, about = project / FOLDER / f"explore-{run.name}.ipynb", f"nb.find_run({str(run.folder.absolute())!r})"
    if path.exists():
        if not any(about in cell.source for cell in nbformat.read(path, as_version=4).cells):
            raise FileExistsError(f"{path} is about another run than {run.folder}; rename or delete it")
        return path
    notebook = nbformat.read(project / NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace(STARTS_WITH, about)
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    runs.atomic_write(path, lambda file: nbformat.write(notebook, file))
    return path


def find_project() -> Path:
    """The folder that holds notebooks/: this one, one above it, or the repository that magnet is installed from."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(magnet.__file__).parents[1]):
        if (folder / NOTEBOOK).is_file():
            return folder
    raise FileNotFoundError(
        f"{NOTEBOOK} is neither in {here} nor above it: the notebooks do not come with the installed package; "
        "clone the repository and run this in its folder"
    )
