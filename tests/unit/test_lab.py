"""`magnet explore`: what JupyterLab is started with, and what is refused before it is; no server is started."""

import os
import shutil
import sys
from types import SimpleNamespace

import nbformat
import pytest

import magnet
from magnet import cli, runs
from magnet.explore import lab
from magnet.workbench import notebook


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the notebook, made the working folder."""
    (tmp_path / lab.NOTEBOOK).parent.mkdir()
    shutil.copy(lab.find_project() / lab.NOTEBOOK, tmp_path / lab.NOTEBOOK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def started(monkeypatch) -> list:
    """The command of every JupyterLab that would have been started."""
    calls = []
    monkeypatch.setattr(os, "execv", lambda program, command: calls.append(command))
    return calls


def explore(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["magnet", "explore", *arguments])
    cli.main()


def trained_run() -> runs.Run:
    run = runs.open_run(magnet.recipe("magnet_tiny"))
    run.weights.touch()
    return run


def find_run(path) -> runs.Run:
    """The run that a notebook's setup cell makes."""
    (code,) = [cell.source for cell in nbformat.read(path, as_version=4).cells if "nb.find_run" in cell.source][:1]
    (line,) = [line for line in code.splitlines() if "nb.find_run" in line]
    names = {"nb": notebook.Notebook(0, False, "cpu", "data")}
    exec(line, names)
    return names["run"]


def test_it_opens_a_copy_of_the_notebook_on_a_run_by_its_recipe(project, started, monkeypatch, capsys):
    run = trained_run()
    before = (project / lab.NOTEBOOK).read_bytes()
    explore(monkeypatch, "magnet_tiny", "--port", "9001", "--no-browser")
    (command,) = started
    copy = project / "notebooks" / f"explore-{run.name}.ipynb"
    assert command[1:4] == ["-m", "jupyterlab", str(copy)] and f"{copy} is yours" in capsys.readouterr().out
    assert f"--ServerApp.root_dir={project}" in command
    assert "--ServerApp.port=9001" in command and "--no-browser" in command
    assert (project / lab.NOTEBOOK).read_bytes() == before
    absolute = run.folder.absolute()
    monkeypatch.chdir(project / "notebooks")  # where the kernel starts
    assert find_run(copy).config == run.config and find_run(copy).folder == absolute


def test_the_copy_holds_no_output_of_another_network_and_keeps_what_its_user_wrote(project, started, monkeypatch):
    run = trained_run()
    path = lab.write_copy(project, run)
    copy = nbformat.read(path, as_version=4)
    cells = [cell for cell in copy.cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)
    cells[0].source += "\n# mine"
    nbformat.write(copy, path)
    assert lab.write_copy(project, run) == path and "# mine" in path.read_text()


def test_a_copy_about_another_run_of_that_name_is_not_taken_for_this_one(project, started, monkeypatch, capsys):
    run = trained_run()
    path = lab.write_copy(project, run)
    before = path.read_bytes()
    shutil.copytree(run.folder, elsewhere := project / "elsewhere" / run.name)
    assert f"{path} is about another run than {elsewhere}" in refused(capsys, monkeypatch, str(elsewhere))
    assert path.read_bytes() == before and not started


@pytest.mark.parametrize("user, extra", [(0, ["--allow-root"]), (1000, [])])
def test_nothing_is_asked_of_jupyter_that_was_not_given(project, started, monkeypatch, user, extra):
    monkeypatch.chdir(project / "notebooks")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    explore(monkeypatch, "refshapes-tiny-lavt")
    (command,) = started
    assert command[5:] == extra
    assert find_run(project / "notebooks" / "explore-refshapes-tiny-lavt.ipynb").name == "refshapes-tiny-lavt"


def refused(capsys, monkeypatch, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        explore(monkeypatch, *arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_an_unknown_run_is_refused_with_those_there_are(project, started, capsys, monkeypatch):
    said = refused(capsys, monkeypatch, "nonsense")
    assert "no run and no file 'nonsense'" in said and "refshapes-tiny" in said and not started


def test_a_run_without_weights_is_refused(project, started, capsys, monkeypatch):
    runs.open_run(magnet.recipe("magnet_tiny"))
    assert "magnet train magnet_tiny" in refused(capsys, monkeypatch, "magnet_tiny") and not started


def test_without_jupyterlab_it_says_how_to_get_it(project, started, capsys, monkeypatch):
    monkeypatch.setattr(lab, "find_spec", lambda name: None)
    assert "pip install -e .[notebooks]" in refused(capsys, monkeypatch, "refshapes-tiny") and not started


def test_the_repository_that_is_installed_from_has_the_notebook_and_a_package_alone_has_not(
    tmp_path, started, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert (lab.find_project() / lab.NOTEBOOK).is_file()
    monkeypatch.setattr(lab, "magnet", SimpleNamespace(__file__=str(tmp_path / "site-packages/magnet/__init__.py")))
    said = refused(capsys, monkeypatch, "refshapes-tiny")
    assert "do not come with the installed package" in said and "clone the repository" in said and not started
