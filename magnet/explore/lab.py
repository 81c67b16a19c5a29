"""`magnet explore RUN`: JupyterLab on the notebook that asks where and why a run fails.

open_lab("refshapes-tiny")              # takes this process's place until JupyterLab is stopped
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import magnet
from magnet import runs
from magnet.workbench.notebook import FOLDER, RUN

NOTEBOOK = FOLDER / "11_failures.ipynb"


def open_lab(source: str | Path, port: int | None = None, browser: bool = True) -> None:
    """JupyterLab on notebook 11, whose setup reads the run's folder from the environment (`Notebook.chosen_run`).

    Args: source: as `runs.find` takes it; port: None: 8888, or the next one that is free; browser: open one.
    Raises FileNotFoundError for a run that does not exist or has no weights, or where the notebooks are not at hand,
    ValueError where JupyterLab is not installed.
    """
    run = runs.find(source)
    run.checked_weights()
    project = find_project()
    if not find_spec("jupyterlab"):
        raise ValueError("magnet explore needs JupyterLab; install it with: pip install -e .[notebooks]")
    command = [sys.executable, "-m", "jupyterlab", str(project / NOTEBOOK), f"--ServerApp.root_dir={project}"]
    command += [f"--ServerApp.port={port}"] * (port is not None) + ["--no-browser"] * (not browser)
    command += ["--allow-root"] * (os.geteuid() == 0)  # as one is in a container; JupyterLab must be told
    os.execve(sys.executable, command, os.environ | {RUN: str(run.folder.absolute())})  # Ctrl-C is JupyterLab's


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
