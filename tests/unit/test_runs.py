import dataclasses
import errno
import subprocess

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import magnet
from magnet import runs
from magnet.config import Config, DataConfig, GroundingConfig, OptimConfig


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path / "runs")


def changed(config: Config, part: str, **values) -> Config:
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **values)})


def test_a_configuration_survives_json():
    for name in magnet.recipes.RECIPES:
        config = magnet.recipe(name, seed=3)
        again = runs.config_from_dict(runs.config_to_dict(config))
        assert runs.config_hash(again) == runs.config_hash(config)
        assert again.optim == config.optim and again.losses == config.losses


def test_the_hash_covers_numbers_and_not_paths():
    config = magnet.recipe("lavt_tiny")
    same = [changed(config, "data", root="/elsewhere", num_workers=7), dataclasses.replace(config, log_every=99)]
    other = [dataclasses.replace(config, seed=1), changed(config, "optim", precision="float32")]
    other += [changed(config, "optim", batch_size=16), changed(config, "data", words="bag")]
    assert {runs.config_hash(c) for c in same} == {runs.config_hash(config)}
    hashes = [runs.config_hash(c) for c in other]
    assert len({*hashes, runs.config_hash(config), runs.config_hash(config, start="abc")}) == len(other) + 2


def test_the_same_configuration_finds_its_folder():
    config = magnet.recipe("lavt_tiny")
    run = runs.open_run(config)
    assert runs.open_run(changed(config, "data", root="/elsewhere")).folder == run.folder
    for source in (run, run.folder, str(run.folder), run.name, "lavt_tiny", run.folder / "model.safetensors"):
        assert runs.find(source).folder == run.folder


def test_a_folder_of_another_configuration_is_refused():
    run = runs.open_run(magnet.recipe("lavt_tiny"))
    other = runs.config_to_dict(magnet.recipe("lavt_tiny", seed=5))
    runs.write_json(run.folder / "config.json", {"version": runs.VERSION, **other})
    with pytest.raises(ValueError, match="another configuration"):
        runs.open_run(magnet.recipe("lavt_tiny"))


def test_a_newer_layout_and_an_unknown_setting_are_refused():
    run = runs.open_run(magnet.recipe("lavt_tiny"))
    values = runs.read_json(run.folder / "config.json")
    runs.write_json(run.folder / "config.json", {**values, "version": runs.VERSION + 1})
    with pytest.raises(ValueError, match=f"version {runs.VERSION + 1}.*reads {runs.VERSION}"):
        runs.find(run.folder)
    runs.write_json(run.folder / "config.json", {**values, "sped": 3})
    with pytest.raises(ValueError, match="sped"):
        runs.find(run.folder)
    (run.folder / "config.json").write_text('{"version": 1, "reci')
    with pytest.raises(ValueError, match=r"config.json is not readable as JSON"):
        runs.find(run.folder)


def test_an_unknown_run_lists_the_known_ones():
    name = runs.open_run(magnet.recipe("lavt_tiny")).name
    with pytest.raises(FileNotFoundError, match=name):
        runs.find("magnet_gigantic")


def test_a_full_disk_keeps_the_previous_file(tmp_path):
    path = runs.atomic_write(tmp_path / "weights", lambda file: file.write_text("old"))

    def full(file):
        file.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"weights: No space left"):
        runs.atomic_write(path, full)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_weights_that_do_not_fit_are_named(tmp_path):
    model = torch.nn.Linear(3, 2)
    path = tmp_path / "model.safetensors"
    for tensors, message in [
        ({"weight": torch.zeros(2, 3)}, r"model\.safetensors does not fit .*bias is missing"),
        ({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, r"weight is \(2, 4\), not \(2, 3\)"),
        ({"weight": torch.full((2, 3), torch.nan), "bias": torch.zeros(2)}, "weight is not finite"),
    ]:
        save_file(tensors, path)
        with pytest.raises(ValueError, match=message):
            runs.load_weights(model, path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        runs.load_weights(model, path)


def test_a_log_cut_short_by_a_kill_is_read_up_to_there():
    run = runs.open_run(magnet.recipe("lavt_tiny"))
    (run.folder / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [line["step"] for line in run.log()] == [1, 2]


def test_a_new_setting_at_its_default_renames_no_run():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Later(Config):
        newest: int = 3
        newest_part: DataConfig = DataConfig()  # noqa: RUF009

    config = magnet.recipe("lavt_tiny")
    later = Later(**{f.name: getattr(config, f.name) for f in dataclasses.fields(config)})
    assert runs.config_hash(later) == runs.config_hash(config)
    for change in ({"newest": 4}, {"newest_part": DataConfig(image_size=96)}, {"grounding": GroundingConfig()}):
        assert runs.config_hash(dataclasses.replace(later, **change)) != runs.config_hash(config)
    assert runs.config_hash(dataclasses.replace(later, newest_part=DataConfig(root="x"))) == runs.config_hash(config)


def test_unhashed_fields_are_exactly_paths_logging_and_how_work_is_split():
    kinds = (Config, DataConfig, OptimConfig)
    marked = {f.name for kind in kinds for f in dataclasses.fields(kind) if f.metadata.get("unhashed")}
    split = {"num_workers", "num_processes", "micro_batch"}
    assert marked == {"root", "log_every", "checkpoint_every", "tensorboard"} | split


def test_a_full_disk_under_safetensors_is_named(tmp_path):
    """safetensors raises its own kind of error, which is no OSError."""
    (tmp_path / "weights").write_text("kept")

    def write(path):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match=r"^could not write .*weights: .*No space left.*what was there is kept"):
        runs.atomic_write(tmp_path / "weights", write)
    assert (tmp_path / "weights").read_text() == "kept"


def test_whole_numbers_are_as_good_as_fractions(run_root):
    config = magnet.recipe("lavt_tiny")
    whole = dataclasses.replace(config, losses={"cross_entropy": 1, "dice": 2})
    fractions = dataclasses.replace(config, losses={"cross_entropy": 1.0, "dice": 2.0})
    assert runs.open_run(whole).folder == runs.open_run(fractions).folder == runs.open_run(whole).folder


def test_a_recipe_means_its_newest_run_with_weights(run_root):
    trained, later = (runs.open_run(magnet.recipe("lavt_tiny", seed=seed)) for seed in (1, 2))
    trained.weights.touch()
    assert runs.find("lavt_tiny").folder == trained.folder != later.folder


@pytest.mark.parametrize("has, said", [(True, " threads, bfloat16"), (False, " threads, no bfloat16")])
def test_the_environment_says_whether_the_processor_multiplies_bfloat16(monkeypatch, has, said):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    assert runs.environment()["processor"].endswith(said)


def test_a_commit_is_dirty_where_a_file_that_makes_numbers_has_changed(tmp_path, monkeypatch):
    def git(*arguments):
        about = ["-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
        return subprocess.run(["git", *about, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    files = {name: tmp_path / name for name in ("magnet/runs.py", "results/tables/x.csv", "results/studies/x.json")}
    git("init")
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1")
    git("add", "."), git("commit", "-m", "first")
    monkeypatch.setattr(runs, "__file__", str(files["magnet/runs.py"]))
    commit = git("describe", "--always", "--abbrev=12")
    for name, expected in {"results/tables/x.csv": commit, "results/studies/x.json": f"{commit}-dirty"}.items():
        files[name].write_text("2")
        assert runs.environment()["commit"] == expected, name
    git("checkout", "."), files["magnet/runs.py"].write_text("2")
    assert runs.environment()["commit"] == f"{commit}-dirty"
