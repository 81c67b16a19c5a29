"""The runner: what is done stays done, one that fails stops nobody, results of something else are refused."""

import json
import shutil
import sys
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ASSETS

import magnet
from magnet import cli, runs
from magnet.data import read_refer, select_split
from magnet.evaluate import evaluate
from magnet.workbench import ablate, studies, study_files
from magnet.workbench.study import Study
from magnet.workbench.study_results import notes, read_finished

HERE = {
    "packages": {"magnet-workbench": "0.1.0", "torch": "2.14"}, "commit": "abc", "gpus": [],
    "processor": "x86_64, 2 cores, 2 threads, bfloat16",
}  # fmt: skip


def study(**fields) -> Study:
    variants = {"plain": {}, "grounded": {"grounding": {}}, "later": {"init": "plain", "grounding": {}}}
    given = {"name": "toy", "claim": "c", "refuted_by": "r", "variants": variants, "seeds": (0, 1), "splits": ("val",)}
    return Study(**given | {"comparisons": (("Mask Grounding", "grounded", "plain"),)} | fields)


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Trainings and scores that take no time; the list of (variant's grounding, seed, what it starts from)."""
    done = []

    def fit(config, init=None, progress=True):
        done.append((config.grounding is not None, config.seed, init and init.config.seed))
        run = runs.open_run(config, init and init.name)
        run.weights.open("a").close()  # where they are there, they stay as they are
        (run.folder / "log.jsonl").write_text('{"step": 1, "images_per_second": 8.0}\n{"step": 1, "validation": {}}\n')
        return run

    def evaluate(run, split, num_expressions=None, **options):
        table = select_split(read_refer(run.config.data.root), split)[:num_expressions]
        generator = np.random.default_rng([run.config.seed, run.config.grounding is not None])
        inside = generator.integers(0, table["area"] + 1)
        return table.assign(I=inside, U=table["area"] + 5, iou=inside / (table["area"] + 5))

    monkeypatch.setattr(runs, "ROOT", tmp_path / "runs")
    monkeypatch.setattr(runs, "environment", lambda: HERE)
    monkeypatch.setattr(magnet, "fit", fit, raising=False)
    monkeypatch.setattr(magnet, "evaluate", evaluate, raising=False)
    cost = {"parameters": 2e6, "forward_gflop": 0.5, "training_gflop": 0.7}
    monkeypatch.setattr(ablate, "Stepper", lambda *a, **k: SimpleNamespace(cost=lambda: cost))
    return done


@pytest.fixture
def kinds(monkeypatch):
    """errors.py reduced to two kinds; it checks that it is given rows that belong together."""

    def error_kinds(results, expressions):
        assert results["sent_id"].tolist() == expressions["sent_id"].tolist() and "rle" in expressions
        return pd.Series(np.where(results["iou"] > 0.5, "right", "part"), index=range(100, 100 + len(results)))

    monkeypatch.setattr(ablate, "error_kinds", error_kinds)


@pytest.fixture
def go(trained, kinds, tmp_path):
    """Run a study in an empty folder."""
    return lambda made=None, **options: ablate.ablate(
        made or study(), root=ASSETS, folder=tmp_path / "studies", progress=False, **options
    )


def test_every_run_leaves_a_small_table_and_its_facts(go, trained, tmp_path):
    assert go() == {}
    files = sorted(path.name for path in (tmp_path / "studies/toy").iterdir())
    assert files == sorted(f"{v}-{s}.{end}" for v in study().variants for s in (0, 1) for end in ("json", "parquet"))
    table = pd.read_parquet(tmp_path / "studies/toy/grounded-1.parquet")
    assert list(table) == study_files.COLUMNS and len(table) == 36 and set(table["error"]) == {"right", "part"}
    assert (tmp_path / "studies/toy/grounded-1.parquet").stat().st_size < 10_000
    facts = runs.read_json(tmp_path / "studies/toy/grounded-1.json")
    assert facts["digest"] == study().digest("grounded", 1) and facts["config"]["grounding"]["ratio"] == 0.15
    assert (
        facts["hours"] == pytest.approx(16 / 8 / 3600)
        and facts["parameters"] == 2e6
        and "commit" not in facts["config"]
    )
    assert {"version", "hardware", "command", "date", "forward_gflop"} <= facts.keys()


def test_seed_by_seed_and_a_start_is_the_finished_run_of_the_same_seed(go, trained):
    go()
    first = trained[: len(trained) // 2]
    assert first == [(False, 0, None), (True, 0, None), (False, 0, None), (True, 1000, 0)], "fit finds the third again"
    assert trained[-1] == (True, 1001, 1)


def test_what_is_done_is_not_trained_again(go, trained, monkeypatch, tmp_path):
    go()
    before = len(trained)
    (tmp_path / "studies/toy/plain-1.json").unlink()  # killed before the last file
    go()
    assert len(trained) == before + 1
    monkeypatch.setattr(magnet, "fit", lambda *a, **k: pytest.fail("trained again"), raising=False)
    assert go() == {}


def test_the_facts_are_about_where_a_run_was_trained_also_where_another_code_scores_it(go, monkeypatch, tmp_path):
    go(variants=("plain",), seeds=(0,))
    path = tmp_path / "studies/toy/plain-0.json"
    path.unlink()
    later = {"packages": HERE["packages"] | {"torch": "2.15"}, "commit": "def", "gpus": ["H100"], "processor": "arm64"}
    monkeypatch.setattr(runs, "environment", lambda: HERE | later)
    go(variants=("plain",), seeds=(0, 1))
    about, other = runs.read_json(path), runs.read_json(path.with_name("plain-1.json"))
    assert (about["version"], about["hardware"], about["torch"]) == ("0.1.0 (abc)", HERE["processor"], "2.14")
    assert (other["version"], other["hardware"], other["torch"]) == ("0.1.0 (def)", "arm64, H100", "2.15")


class Everywhere(torch.nn.Module):
    """Takes the whole picture for the object."""

    def forward(self, images, token_ids, token_mask):
        return {"mask_logits": torch.ones(len(images), 6, 6)}


def test_scores_are_of_the_data_whose_digest_stands_beside_them(go, trained, monkeypatch, tmp_path):
    """Also where a run folder holds the scores of the data that lay there before."""
    root = shutil.copytree(ASSETS / "refshapes", tmp_path / "data/refshapes").parent
    monkeypatch.setattr(magnet, "evaluate", evaluate)
    monkeypatch.setattr(runs.Run, "load_model", lambda self: Everywhere())

    def scored() -> tuple[list[int], list[int], str]:
        """What is found inside of each mask, the sizes of the masks, and the digest."""
        ablate.ablate(study(), (0,), ("plain",), root=root, folder=tmp_path / "studies", progress=False)
        table, about = study_files.read_run(study(), ("plain", 0), tmp_path / "studies")
        areas = select_split(read_refer(root), "val").set_index("sent_id")["area"]
        return table["I"].tolist(), areas[table["sent_id"]].tolist(), about["expressions"]["val"]

    inside, areas, digest = scored()
    path = root / "refshapes/instances.json"
    values = runs.read_json(path)
    masks = [one["segmentation"] for one in values["annotations"]]
    for one, mask in zip(values["annotations"], reversed(masks)):
        one["segmentation"] = mask
    runs.write_json(path, values)
    (tmp_path / "studies/toy/plain-0.json").unlink()
    inside_now, areas_now, digest_now = scored()
    assert inside == areas and inside_now == areas_now != areas and digest_now != digest


def other_study(**fields) -> Study:
    """Has `plain` and `grounded` of the toy under other names, and one variant of its own."""
    variants = {"none": {}, "half": {"grounding": {"ratio": 0.5}}, "default": {"grounding": {}}}
    return study(name="other", variants=variants, comparisons=(("half − none", "half", "none"),), **fields)


def test_what_another_study_made_is_taken_over(go, trained, tmp_path, capsys):
    go(variants=("plain", "grounded"))
    before, folder = len(trained), tmp_path / "studies"
    assert go(other_study()) == {} and len(trained) == before + 2  # `half`, two seeds
    assert "other default-1 is the same run as toy/grounded-1, which is done" in capsys.readouterr().out
    for mine, own in (("plain", "none"), ("grounded", "default")):
        theirs, facts = study_files.read_run(study(), (mine, 1), folder)
        ours, about = study_files.read_run(other_study(), (own, 1), folder)
        pd.testing.assert_frame_equal(ours, theirs)
        assert about["made_for"] == f"toy/{mine}-1" and about["hours"] == facts["hours"]
    assert len(read_finished(other_study(), ASSETS, folder).pairs) == 6


def test_a_run_that_was_scored_on_more_splits_is_taken_over_and_read_beside_one_that_was_not(go, trained, tmp_path):
    go(study(splits=("val", "testA")), variants=("plain", "grounded"))
    before = len(trained)
    assert go(other_study()) == {} and len(trained) == before + 2  # `half`, on val alone
    results = read_finished(other_study(), ASSETS, tmp_path / "studies")
    assert set(results.expressions["split"]) == {"val"} and len(results.pairs) == 6
    assert all(one["expressions"].keys() == {"val"} for one in results.facts)


def test_a_study_that_asks_for_fewer_splits_than_before_reads_its_runs(go, tmp_path):
    go(study(splits=("val", "testA")), seeds=(0,))
    go(study(splits=("testA",)), seeds=(1,))
    results = read_finished(study(splits=("testA",)), ASSETS, tmp_path / "studies")
    assert set(results.expressions["split"]) == {"testA"} and len(results.pairs) == 6
    with pytest.raises(ValueError, match=r"plain-1\.parquet was scored on testA as splits"):
        read_finished(study(splits=("val", "testA")), ASSETS, tmp_path / "studies")


def test_damaged_results_of_another_study_and_those_of_other_splits_are_not_taken_over(go, trained, tmp_path):
    go(variants=("plain", "grounded"), seeds=(0,))
    (tmp_path / "studies/toy/plain-0.parquet").write_bytes(b"damaged")
    (tmp_path / "studies/toy/grounded-0.json").write_text("[]")
    before = len(trained)
    assert go(other_study(seeds=(0,))) == {} and len(trained) == before + 3
    more = other_study(seeds=(0,), splits=("val", "testA"))
    assert study_files.take_over(more, ("none", 0), tmp_path / "studies") is None


def test_one_that_fails_does_not_stop_the_others_and_is_tried_again(go, monkeypatch, tmp_path, capsys):
    whole = magnet.fit

    def fails_at_plain_0(config, **options):
        if config.seed == 0 and config.grounding is None:
            raise RuntimeError("no memory")
        return whole(config, **options)

    monkeypatch.setattr(magnet, "fit", fails_at_plain_0, raising=False)
    failed = go()
    assert list(failed) == ["plain-0", "later-0"] and "no memory" in str(failed["plain-0"])
    assert "plain-0, which it starts from, failed" in str(failed["later-0"])
    assert len(list((tmp_path / "studies/toy").glob("*.json"))) == 4
    assert "[6/6] toy later-1: val oIoU" in capsys.readouterr().out
    monkeypatch.setattr(magnet, "fit", whole, raising=False)
    assert go() == {} and len(list((tmp_path / "studies/toy").glob("*.json"))) == 6


def test_ctrl_c_stops_all_and_says_how_to_go_on(go, monkeypatch):
    whole = magnet.fit

    def stopped_at_the_second(config, **options):
        if config.grounding is not None:
            raise KeyboardInterrupt("stopped at step 7 of 500")
        return whole(config, **options)

    monkeypatch.setattr(magnet, "fit", stopped_at_the_second, raising=False)
    with pytest.raises(
        KeyboardInterrupt, match=r"step 7 of 500\n1 of 6 runs of toy are done; the same command goes on"
    ):
        go()


@pytest.mark.parametrize("num", [1, 2, 3, 7])
def test_shards_share_all_runs_and_keep_starts_together(num):
    made, pairs = study(seeds=(0, 1, 2)), study(seeds=(0, 1, 2)).chosen()
    shards = [ablate.share(made, pairs, (index, num)) for index in range(num)]
    assert sorted(pair for shard in shards for pair in shard) == sorted(pairs)
    for shard, seed in product(shards, (0, 1, 2)):
        assert (("plain", seed) in shard) == (("later", seed) in shard)


def sharded(made: Study, num: int) -> dict[tuple[str, int], int]:
    """run -> its shard."""
    return {pair: i for i in range(num) for pair in ablate.share(made, made.chosen(), (i, num))}


@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_a_seed_is_of_one_machine_while_there_are_enough_seeds(num):
    made = studies.components()
    found = sharded(made, num)
    assert all(len({found[variant, seed] for variant in made.variants}) == 1 for seed in made.seeds)
    assert set(found.values()) == set(range(num))


@pytest.mark.parametrize(
    "num, name", [(10, "components"), (13, "components"), (15, "prior_methods"), (40, "components")]
)
def test_more_shards_than_seeds_share_each_seed_evenly_and_no_variants_place_is_fixed(num, name):
    made = studies.find(name)
    found = sharded(made, num)
    starts = [variant for variant in made.variants if made.start(variant) is None]
    for seed in made.seeds:
        loads = [sum(found[v, seed] == i for v in starts) for i in range(seed, num, len(made.seeds))]
        assert sum(loads) == len(starts) and max(loads) - min(loads) <= 1, "a shard is of one seed"
    places = {v: {found[v, seed] // len(made.seeds) for seed in made.seeds} for v in starts}
    assert all(len(place) > 1 for place in places.values())


def test_a_part_of_a_study_can_be_run(go, tmp_path):
    go(variants=("plain",), seeds=(1,))
    assert [path.name for path in (tmp_path / "studies/toy").glob("*.json")] == ["plain-1.json"]
    with pytest.raises(ValueError, match="no variant 'x' in toy; there are plain, grounded, later"):
        go(variants=("x",))
    with pytest.raises(ValueError, match="no seed 4 in toy; there are 0, 1"):
        go(seeds=(0, 4))
    with pytest.raises(ValueError, match="shard 2/2: the first number is one from 0 to 1"):
        go(shard=(2, 2))


def test_results_of_another_configuration_are_refused_before_anything_is_trained(go, trained, tmp_path):
    go(seeds=(1,))
    before, other = len(trained), study(variants={"plain": {}, "grounded": {"grounding": {"ratio": 0.5}}})
    with pytest.raises(
        ValueError, match=r"grounded-1\.parquet.*\(grounding.ratio = 0.15 there, 0.5 now\); move .*toy away"
    ):
        go(other)
    assert len(trained) == before
    with pytest.raises(ValueError, match="grounding"):
        read_finished(other, ASSETS, tmp_path / "studies")


def test_missing_data_is_said_before_anything_is_trained(go, trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="magnet data shapes"):
        ablate.ablate(study(), root=tmp_path, folder=tmp_path)
    with pytest.raises(ValueError, match="no split 'vall'"):
        go(study(splits=("vall",)))
    assert trained == []


def test_a_stopped_smoke_test_does_not_promise_to_go_on(trained, kinds, monkeypatch, capsys, tmp_path):
    def stopped(config, **options):
        raise KeyboardInterrupt("stopped at step 1 of 2; all is saved in results/runs. The same command goes on")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(magnet, "fit", stopped, raising=False)
    assert command(monkeypatch, "components", "--smoke") == 130
    said = capsys.readouterr().err.strip()
    assert said == "stopped; a smoke test keeps nothing, the same command starts it anew"
    assert list(tmp_path.iterdir()) == []


def test_components_passes_its_smoke_test(kinds, monkeypatch, capsys):
    """All of it: nine variants, two seeds, two steps each, scores, tables and figure; nothing is kept."""
    monkeypatch.setattr(sys, "argv", ["magnet", "ablate", "components", "--smoke"])
    cli.main()
    out = capsys.readouterr().out
    assert "[18/18] components matched-1: val oIoU" in out and "grounding_cam_alignment 2 of 2" in out
    assert "Mask Grounding × CAM × CAL" in out and "study_components.tex" not in out


def test_runs_of_other_expressions_are_refused_with_their_ids(go, tmp_path):
    go()
    folder, pair = tmp_path / "studies", ("grounded", 0)
    (table, facts), first = study_files.read_run(study(), pair, folder), read_finished(study(), ASSETS, folder)
    assert first.pairs == [(v, s) for v in study().variants for s in (0, 1)]
    ids = table["sent_id"].tolist()
    study_files.write_run(study(), pair, table.iloc[2:], facts, folder)
    with pytest.raises(ValueError, match=rf"toy/grounded-0 .*lacks 2 expressions.*\[{ids[0]}, {ids[1]}\]"):
        read_finished(study(), ASSETS, folder)
    study_files.write_run(study(), pair, table.sample(frac=1, random_state=0), facts, folder)
    again = read_finished(study(), ASSETS, folder)  # another order is no other table
    assert all((again.scores[name][0] == first.scores[name][0]).all() for name in first.scores)


def test_a_damaged_run_is_said_and_once_deleted_it_is_made_again(go, trained, tmp_path):
    go()
    path, before = tmp_path / "studies/toy/grounded-0.parquet", len(trained)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"grounded-0\.parquet is damaged: .*; delete it, and magnet ablate makes"):
        read_finished(study(), ASSETS, tmp_path / "studies")
    path.unlink()
    assert go() == {} and len(trained) == before + 1
    assert len(read_finished(study(), ASSETS, tmp_path / "studies").pairs) == 6


def test_other_sentences_under_the_same_ids_are_refused(go, tmp_path):
    go()
    folder = tmp_path / "studies"
    for name, message in (("plain-0", "another val of refshapes"), ("later-1", "toy/later-1 were scored on other")):
        path = folder / "toy" / f"{name}.json"
        facts = runs.read_json(path)
        for other in folder.glob("toy/*.json") if name == "plain-0" else [path]:
            runs.write_json(other, runs.read_json(other) | {"expressions": {"val": "000000"}})
        with pytest.raises(ValueError, match=message):
            read_finished(study(), ASSETS, folder)
        for other in folder.glob("toy/*.json"):
            runs.write_json(other, runs.read_json(other) | {"expressions": facts["expressions"]})


def test_what_is_missing_and_other_code_are_said(go, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no finished run in .*toy; make them with: magnet ablate toy"):
        read_finished(study(), ASSETS, tmp_path / "studies")
    go(variants=("plain", "grounded"))
    assert notes(read_finished(study(), ASSETS, tmp_path / "studies")) == ["2 of 6 runs are missing: later-0, later-1"]
    path = tmp_path / "studies/toy/plain-0.json"
    path.write_text(json.dumps(runs.read_json(path) | {"version": "0.0.9 (abc)"}))
    said = notes(read_finished(study(), ASSETS, tmp_path / "studies"))
    assert "made with other code than this one, 0.1.0 (abc): 0.0.9 (abc)" in said[1]
    assert "several versions are compared" in said[1] and "GFLOP are as each was counted then" in said[1]
    path.write_text(json.dumps(runs.read_json(path) | {"hardware": "a GPU"}))
    assert "several machines" in notes(read_finished(study(), ASSETS, tmp_path / "studies"))[2]


def test_changed_files_are_another_version_also_where_the_commit_is_the_same(go, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "environment", lambda: HERE | {"commit": "abc-dirty"})
    go()
    said = notes(read_finished(study(), ASSETS, tmp_path / "studies"))
    version, known = "0.1.0 (abc-dirty)", "-dirty is code with changes that no commit holds"
    assert said == [f"made with other code than this one, {version}: {version}; {known}"]


def command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["magnet", "ablate", *arguments])
    try:
        cli.main()
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_the_command_lists_studies_reads_tables_and_names_failures(go, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch) == 0 and "components: 9 variants, 5 seeds" in capsys.readouterr().out
    assert command(monkeypatch, "componets") == 2 and "there are components" in capsys.readouterr().err
    assert command(monkeypatch, "components", "--shard", "1") == 2 and "two numbers" in capsys.readouterr().err
    monkeypatch.setitem(studies.STUDIES, "toy", study)
    go(study(), variants=("plain", "grounded"))
    (tmp_path / "results").mkdir()
    (tmp_path / "studies").rename(tmp_path / "results/studies")
    before = len(trained)
    assert command(monkeypatch, "toy", "--table", "--root", str(ASSETS)) == 0 and len(trained) == before
    assert "Note: 2 of 6 runs are missing" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "results").glob("*/study_toy*")}
    ends = (".csv", "_effects.csv", "_groups.csv", ".md", ".tex", ".png")
    assert written == {f"study_toy{end}" for end in ends}
    monkeypatch.setattr(magnet, "fit", lambda *a, **k: 1 / 0, raising=False)
    assert command(monkeypatch, "toy", "--root", str(ASSETS)) == 1
    assert "2 runs failed; the same command tries them again: later-0: division" in capsys.readouterr().err
