"""`magnet explore`: what JupyterLab is started with, and what is refused before it is; no server is started."""

import os
import sys
from types import SimpleNamespace

import pytest

import magnet
from magnet import cli, runs
from magnet.explore import lab
from magnet.workbench import notebook


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the notebook, made the working folder."""
    (tmp_path / lab.NOTEBOOK).parent.mkdir()
    (tmp_path / lab.NOTEBOOK).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def started(monkeypatch) -> list:
    """(command, environment) of every JupyterLab that would have been started."""
    calls = []
    monkeypatch.setattr(os, "execve", lambda program, command, environment: calls.append((command, environment)))
    return calls


def explore(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["magnet", "explore", *arguments])
    cli.main()


def trained_run() -> runs.Run:
    run = runs.open_run(magnet.recipe("magnet_tiny"))
    run.weights.touch()
    return run


def test_it_opens_the_notebook_on_a_run_by_its_recipe(project, started, monkeypatch):
    run = trained_run()
    explore(monkeypatch, "magnet_tiny", "--port", "9001", "--no-browser")
    ((command, environment),) = started
    assert command[1:4] == ["-m", "jupyterlab", str(project / "notebooks" / "11_failures.ipynb")]
    assert f"--ServerApp.root_dir={project}" in command
    assert "--ServerApp.port=9001" in command and "--no-browser" in command
    monkeypatch.setenv(notebook.RUN, environment[notebook.RUN])
    monkeypatch.chdir(project / "notebooks")  # where the kernel starts
    assert notebook.Notebook(0, False, "cpu", "data").chosen_run().config == run.config


@pytest.mark.parametrize("user, extra", [(0, ["--allow-root"]), (1000, [])])
def test_nothing_is_asked_of_jupyter_that_was_not_given(project, started, monkeypatch, user, extra):
    monkeypatch.chdir(project / "notebooks")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    explore(monkeypatch, "refshapes-tiny-lavt")
    ((command, environment),) = started
    assert command[5:] == extra and environment[notebook.RUN].endswith("refshapes-tiny-lavt")
    assert environment["PATH"] == os.environ["PATH"]


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
