"""The setup cell: where a notebook works, on which data, and on which run."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
import torch

import magnet
from magnet import runs
from magnet.workbench import notebook as machinery
from magnet.workbench import surgery


@pytest.fixture
def project(tmp_path, monkeypatch) -> Iterator[Path]:
    """A project folder, with Jupyter started in its notebooks/."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "_template.ipynb").touch()
    monkeypatch.delenv("MAGNET_SMOKE", raising=False)
    monkeypatch.delenv("MAGNET_DATA", raising=False)
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(logging.getLogger("magnet"), "handlers", [])
    with matplotlib.rc_context():  # the figure style is for notebooks, not for the tests that follow
        yield tmp_path


def test_setup_works_from_the_project_folder(project):
    machinery.setup()
    assert Path.cwd() == project


def test_setup_seeds(project):
    machinery.setup(seed=3)
    first = torch.rand(2)
    machinery.setup(seed=3)
    assert torch.equal(torch.rand(2), first)
    machinery.setup(seed=4)
    assert not torch.equal(torch.rand(2), first)


def test_what_the_package_says_is_plain_text(project, capsys):
    """On stderr it would be a red box, and no notebook with one is stored."""
    machinery.setup()
    machinery.setup()
    logging.getLogger("magnet.models.magnet").warning("6 language layers")
    assert capsys.readouterr() == ("6 language layers\n", "")


def test_data_are_the_users_own_where_there_are_any(project, monkeypatch):
    shipped = str(Path(magnet.__file__).parent / "assets")
    assert machinery.setup().root == shipped
    (project / "data" / "refshapes").mkdir(parents=True)
    (project / "data" / "refshapes" / "instances.json").touch()
    assert machinery.setup().root == "data"
    monkeypatch.setenv("MAGNET_SMOKE", "1")
    assert machinery.setup().root == shipped


def test_smoke_mode_shrinks_loops(project, monkeypatch):
    assert machinery.setup().steps(full=50, smoke=2) == 50
    monkeypatch.setenv("MAGNET_SMOKE", "1")
    assert machinery.setup().steps(full=50, smoke=2) == 2


def make_run(num_steps: int, words: str = "sentence", finished: bool = True) -> str:
    config = magnet.recipe(machinery.RECIPE)
    data, optim = replace(config.data, words=words), replace(config.optim, num_steps=num_steps)
    run = runs.open_run(replace(config, data=data, optim=optim))
    run.weights.touch()
    if finished:
        runs.write_json(run.folder / "finished.json", {})
    return run.name


def test_demo_run_is_the_longest_finished_one_that_reads(project):
    nb = machinery.setup()
    make_run(10)
    wanted = make_run(20)
    make_run(30, words="none")
    make_run(40, finished=False)
    assert nb.demo_run().name == wanted


def test_shipped_weights_come_with_this_notebooks_data(project):
    nb = machinery.setup()
    run = nb.find_run()
    assert run.folder.parent == runs.SHIPPED and run.config.data.root == nb.root
    assert run.load_model().config.method == "magnet"
    start = surgery.with_fresh_parts(run, run.config, ("query_decoder",))
    assert start.is_file() and start.parent == runs.ROOT / "starts"  # never in the package
    kept = {path.name for path in run.folder.rglob("*")}
    assert kept == {"config.json", "model.safetensors", "README.md"}


def test_a_run_of_ones_own_keeps_its_data_and_shipped_weights_are_found_by_folder_too(project):
    nb = machinery.setup()
    assert nb.find_run(runs.SHIPPED / "refshapes-tiny-lavt") == nb.find_run("refshapes-tiny-lavt")
    own = nb.find_run(runs.ROOT / make_run(10))
    assert own.config.optim.num_steps == 10 and own.config.data.root is None
    with pytest.raises(FileNotFoundError, match="nonsense"):
        nb.find_run("nonsense")


def test_demo_run_is_made_where_there_is_none(project, monkeypatch):
    monkeypatch.setattr(magnet, "fit", lambda config: config, raising=False)
    made = machinery.setup().demo_run()
    assert (made.recipe, made.optim.num_steps) == ("notebook", 60)
    monkeypatch.setenv("MAGNET_SMOKE", "1")
    make_run(20)
    assert machinery.setup().demo_run().optim.num_steps == 2  # smoke mode leaves the user's runs alone
