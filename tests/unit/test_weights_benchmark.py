"""`magnet benchmark weights`: every expression once, whoever is stopped or shares the work."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import ASSETS, tiny_config

import magnet
from magnet import cli, runs
from magnet.config import Config, LanguageConfig, ModelConfig
from magnet.data import load_tokenizer, read_refer, select_split
from magnet.data.family import COUNTS
from magnet.models.checkpoints import data_of, origin_of
from magnet.workbench import weights as module
from magnet.workbench.published import COLUMNS, PUBLISHED, find_columns
from magnet.workbench.weights import benchmark_weights, parts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(runs, "ROOT", tmp_path_factory.mktemp("runs"))
    yield magnet.fit(replace(tiny_config(num_steps=2, val_every=2)), progress=False)
    patch.undo()


@pytest.fixture
def settings(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PART", 10)
    return {"columns": {"val": ("refshapes", "v1", "val")}, "folder": tmp_path, "progress": False}


def scored(monkeypatch) -> list[int]:
    """How many expressions each call of the evaluator got."""
    calls, original = [], module.score_expressions

    def noted(model, rows, *args, **options):
        calls.append(len(rows))
        return original(model, rows, *args, **options)

    monkeypatch.setattr(module, "score_expressions", noted)
    return calls


def test_parts_are_whole_pictures_and_all_of_them(run):
    expressions = module._expressions(None, run.config, "refshapes", "v1", "val")
    made = parts(expressions, 10)
    assert [i for part in made for i in part["sent_id"]] == expressions["sent_id"].tolist() and len(made) > 3
    assert all(len(part) >= 10 for part in made[:-1])
    pictures = [set(part["file"]) for part in made]
    assert sum(map(len, pictures)) == expressions["file"].nunique()  # no picture is in two of them


def test_both_protocols_are_what_evaluate_gives(run, settings):
    table = benchmark_weights(run.folder, **settings).set_index("protocol")
    for protocol in ("paper", "original"):
        expected = magnet.summarize(magnet.evaluate(run, split="val", protocol=protocol, progress=False))
        for name in ("oIoU", "mIoU", "P@0.5", "n"):
            assert table.at[protocol, name] == pytest.approx(expected[name], abs=0.01), name
        assert table.at[protocol, "oIoU_low"] <= table.at[protocol, "oIoU"] <= table.at[protocol, "oIoU_high"]


def test_whoever_is_stopped_goes_on(run, settings, monkeypatch):
    calls = scored(monkeypatch)
    monkeypatch.setattr(runs, "atomic_write", stop_after(3, runs.atomic_write))
    with pytest.raises(KeyboardInterrupt):
        benchmark_weights(run.folder, **settings)
    monkeypatch.undo()
    monkeypatch.setattr(module, "PART", 10)
    before, calls = len(calls), scored(monkeypatch)
    table = benchmark_weights(run.folder, **settings)
    whole = len(select_split(read_refer(run.config.data.root), "val"))
    assert before == 4 and table["n"].tolist() == [whole] * 2
    assert sum(calls) < whole - 20  # three parts were there
    calls.clear()
    assert benchmark_weights(run.folder, **settings)["n"].tolist() == [whole] * 2 and not calls


def stop_after(number: int, write):
    written = []

    def writes(*args):
        if len(written) == number:
            raise KeyboardInterrupt
        written.append(args)
        return write(*args)

    return writes


def test_shards_fill_one_folder_and_every_expression_counts_once(run, settings, monkeypatch, caplog):
    calls = scored(monkeypatch)
    assert benchmark_weights(run.folder, shard=(0, 2), **settings).empty  # the other half is not there
    num_parts = len(parts(module._expressions(None, run.config, "refshapes", "v1", "val"), module.PART))
    assert f"not whole yet: val, {len(calls)} of {num_parts} parts" in caplog.text and len(calls) < num_parts
    caplog.clear()
    table = benchmark_weights(run.folder, shard=(1, 2), **settings)
    assert "not whole yet" not in caplog.text
    assert table["n"].tolist() == [sum(calls)] * 2
    with pytest.raises(ValueError, match="shard 2/2: the first number is one from 0 to 1"):
        benchmark_weights(run.folder, shard=(2, 2), **settings)


def test_bfloat16_says_what_it_changes(run, settings):
    table = benchmark_weights(run.folder, precision="bfloat16", **settings)
    assert table["oIoU less float32's"].isna().all()  # not measured yet
    benchmark_weights(run.folder, **settings)
    table = benchmark_weights(run.folder, precision="bfloat16", **settings)
    assert (table["oIoU less float32's (low)"] <= table["oIoU less float32's"]).all()


def test_parts_of_other_expressions_are_refused(run, settings, tmp_path):
    benchmark_weights(run.folder, **settings)
    first, second = sorted(tmp_path.rglob("000[01].parquet"))
    first.replace(second)
    first.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match="was made for other expressions; move it away"):
        benchmark_weights(run.folder, **settings)


def test_a_column_that_is_not_whole_is_left_out_beside_those_that_are(run, settings, caplog):
    settings["columns"] |= {"testC": ("refshapes", "v1", "testC")}
    benchmark_weights(run.folder, **settings)
    (part,) = settings["folder"].rglob("refshapes-v1-testC-*/0001.parquet")
    part.unlink()
    shards = sum(1 for _ in part.parent.iterdir()) + 1
    table = benchmark_weights(run.folder, shard=(0, shards), **settings)  # which has part 0 alone
    assert table["column"].tolist() == ["val", "val"]
    assert f"not whole yet: testC, {shards - 1} of {shards} parts" in caplog.text


def test_columns_are_those_of_the_data_the_weights_were_made_for(run, tmp_path):
    names = {"magnet_refcocog_umd.pth": 2, "magnet_refcocog_google.pth": 1, "magnet_refcoco+.pth": 3,
             "magnet_all.pth": 9, "mine.pth": 9}  # fmt: skip
    for name, number in names.items():
        (tmp_path / name).touch()
        config = replace(run.config, data=data_of(name))
        assert len(module._own_columns(config, None, origin_of(tmp_path / name))) == number, name
    own = module._own_columns(run.config, None, origin_of(run))
    assert "refshapes val" in own and "refshapes train" not in own


@pytest.mark.parametrize(
    "wanted, number, last",
    [
        ("own", 1, "refshapes testA"), ("all", 9, "G-Ref val (G)"), ("refcoco_unc", 3, "RefCOCO testB"),
        ("refcoco val", 1, "RefCOCO val"), ("RefCOCO+ testA", 1, "RefCOCO+ testA"), ("refcocog", 3, "G-Ref val (G)"),
        ("refcocog_umd", 2, "G-Ref test (U)"), ("G-Ref val (G)", 1, "G-Ref val (G)"), ("G-Ref", 3, "G-Ref val (G)"),
        ("refcocog umd val, gref_google, refcocog-umd/val", 2, "G-Ref val (G)"), ("refshapes", 1, "refshapes testA"),
        ("REFCOCO+ unc testb,own", 2, "refshapes testA"),
    ],
)  # fmt: skip
def test_columns_have_the_names_that_users_know(wanted, number, last):
    found = find_columns(wanted, lambda: {"refshapes testA": ("refshapes", "v1", "testA")})
    assert len(found) == number and list(found)[-1] == last


@pytest.mark.parametrize(
    "wanted", ["refcoco google", "val", "refcoco val test", "refcoc", "", "refcoco, ,own", "grefcoco"]
)
def test_a_column_that_is_none_is_answered_with_those_there_are(wanted):
    there = r"there are own, all, mine test, RefCOCO val, .* G-Ref val \(G\), refcoco_unc, .*refcocog_google; give"
    with pytest.raises(ValueError, match=there):
        find_columns(wanted, lambda: {"mine test": ("mine", "me", "test")})


def test_the_nine_columns_need_no_data_of_the_weights_own():
    assert len(find_columns("all", dict.fromkeys)) == 9  # which would raise


def test_the_published_table_is_whole():
    assert len(COLUMNS) == 9 and all(len(values) == 9 for values in PUBLISHED.values())
    assert PUBLISHED["MagNet"]["RefCOCO testB"] == 71.05 and PUBLISHED["LAVT"]["G-Ref val (G)"] == 60.50


def test_the_command(run, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PUBLISHED["MagNet"], "refshapes testA", 75.24)
    command = ["magnet", "benchmark", "weights", str(run.folder), "--root", str(run.config.data.root)]
    monkeypatch.setattr("sys.argv", [*command, "--output", "weights.csv"])
    cli.main()
    paper, original = (line for line in capsys.readouterr().out.splitlines() if "refshapes testA" in line)
    assert paper.endswith(" 75.24") and original.endswith(" –") and (tmp_path / "weights.csv").exists()
    monkeypatch.setattr("sys.argv", [*command, "--shard", "2"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "--shard 2: two numbers are needed, as in 0/2" in capsys.readouterr().err


# --- what must not pass for the published split, or for a fresh result ------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """RefShapes as if its counts had been published, one picture more than are here."""
    expressions = select_split(read_refer(ASSETS), "val")
    numbers = expressions["ref_id"].nunique(), expressions["image_id"].nunique() + 1, len(expressions)
    monkeypatch.setitem(COUNTS, ("refshapes", "v1"), {"val": numbers, "absent": (1, 1, 1)})
    monkeypatch.setitem(PUBLISHED["MagNet"], "val", 75.24)
    return numbers


def test_another_split_than_the_published_one_is_refused(run, settings, counted, monkeypatch):
    calls, images = scored(monkeypatch), counted[1]
    with pytest.raises(ValueError, match=rf"val: val: {images - 1} images, not {images}\..*--allow-miscounted"):
        benchmark_weights(run.folder, **settings)
    assert not calls
    table = benchmark_weights(run.folder, allow_miscounted=True, **settings)
    assert len(table) == 2 and table["published: MagNet"].isna().all()


def test_published_numbers_stand_under_their_own_protocol_only(run, settings, monkeypatch):
    monkeypatch.setitem(PUBLISHED["MagNet"], "val", 75.24)
    published = benchmark_weights(run.folder, **settings).set_index("protocol")["published: MagNet"]
    assert published["paper"] == 75.24 and pd.isna(published["original"])


def test_other_settings_have_other_parts(run, tmp_path):
    expressions, tokenizer = (
        module._expressions(None, run.config, "refshapes", "v1", "val"),
        load_tokenizer("refshapes"),
    )
    config, words = run.config, tmp_path / "vocab.txt"
    words.write_text("\n".join(reversed(sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get))))
    others = [
        (tokenizer, replace(config, data=replace(config.data, image_size=64))),
        (tokenizer, replace(config, data=replace(config.data, num_tokens=4))),
        (tokenizer, replace(config, data=replace(config.data, words="bag"))),
        (tokenizer, replace(config, model=replace(config.model, gate_init="zero"))),
        (load_tokenizer(str(words)), config),
    ]
    made = {module.part_digest(expressions, *other) for other in [(tokenizer, config), *others]}
    assert len(made) == 1 + len(others)
    assert module.part_digest(expressions, tokenizer, replace(config, data=replace(config.data, num_workers=3))) in made


def test_parts_of_another_commit_are_named(run, settings, monkeypatch, caplog):
    benchmark_weights(run.folder, **settings)
    assert "scored by commit" not in caplog.text
    here = runs.environment()
    monkeypatch.setattr(runs, "environment", lambda: here | {"commit": "ffff"})
    benchmark_weights(run.folder, **settings)
    assert f"scored by commit {here['commit']}, this is ffff; delete it to score anew" in caplog.text


@pytest.mark.parametrize("left", [0, 1000])
def test_a_part_that_is_cut_short_is_done_again(run, settings, monkeypatch, tmp_path, left, caplog):
    expected, calls = benchmark_weights(run.folder, **settings), scored(monkeypatch)
    part = sorted(tmp_path.rglob("*.parquet"))[1]
    part.write_bytes(part.read_bytes()[:left])
    again = benchmark_weights(run.folder, **settings)
    assert len(calls) == 1 and again["oIoU"].equals(expected["oIoU"]) and "0001.parquet is damaged" in caplog.text


def test_without_its_words_a_released_file_is_refused_before_anything_is_read(monkeypatch, tmp_path):
    language = LanguageConfig(vocabulary=str(tmp_path / "vocab.txt"))
    config = Config(recipe="x", data=data_of("magnet_refcoco.pth"), model=ModelConfig(language=language))
    monkeypatch.setattr(module, "_weights", lambda source: (Path(source), config, None))
    with pytest.raises(FileNotFoundError, match=r"vocab\.txt does not exist; .*`magnet convert FILE .* --vocabulary`"):
        benchmark_weights("mine.pth", "nowhere")
