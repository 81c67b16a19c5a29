"""What a study keeps of a run is read back as it was written, or refused with its file, its fault and what helps."""

import json
from dataclasses import replace
from hashlib import sha256
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from magnet import runs
from magnet.workbench import studies, study_files
from magnet.workbench.study import Study
from magnet.workbench.study_files import is_done, read_run, take_over, write_run
from magnet.workbench.study_results import read_finished
from magnet.workbench.verdicts import effect_table, error_table, variant_table

ROOT = Path(__file__).parents[2]

STUDY = Study(name="toy", claim="c", refuted_by="r", variants={"plain": {}, "other": {}}, splits=("val",), seeds=(0, 1))
PAIR = ("plain", 1)
TABLE = pd.DataFrame({"split": "val", "sent_id": [3, 5, 8], "I": [0, 4, 7], "U": [0, 9, 7], "error": "right"})


def facts(pair=PAIR) -> dict:
    about = dict.fromkeys(study_files.KINDS_OF_FACTS, "x") | dict.fromkeys(study_files.NUMBERS, 0.5)
    about |= {"study": "toy", "variant": pair[0], "seed": pair[1], "digest": STUDY.digest(*pair)}
    about |= {"config": runs.config_to_dict(STUDY.config(*pair)), "expressions": {"val": "abc"}}
    return {name: value for name, value in about.items() if name != "sha256"}  # `write_run` adds it


@pytest.fixture
def folder(tmp_path):
    write_run(STUDY, PAIR, TABLE, facts(), tmp_path)
    return tmp_path


def test_a_run_is_read_as_it_was_written(folder):
    table, about = read_run(STUDY, PAIR, folder)
    pd.testing.assert_frame_equal(table, TABLE)
    assert (
        facts().items() <= about.items() and is_done(STUDY, PAIR, folder) and not is_done(STUDY, ("plain", 0), folder)
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"I": [0, 10, 7]}, "sent_id 5 has I = 10 and U = 9, but 0 ≤ I ≤ U"),
        ({"I": [0, 4, -1]}, "sent_id 8 has I = -1"),
        ({"I": [0, np.nan, 7]}, "sent_id 5 has I = nan"),
        ({"U": [0, 9, np.nan]}, "sent_id 8 has I = 7 and U = nan"),
        ({"U": [np.inf, 9, 7]}, "sent_id 3 has I = 0 and U = inf"),
        ({"I": ["0", "four", "7"]}, "sent_id 5 has I = four"),
        ({"sent_id": [3, 5, 3]}, "it holds sent_id 3 twice"),
        ({"error": ["right", "wrong", "right"]}, "there is no kind of error 'wrong'"),
        ({"split": ["val", "val", "testA"]}, "it holds testA, val, the facts beside it are about val"),
    ],
)
def test_a_table_that_no_evaluation_writes_is_refused(folder, changes, message):
    write_run(STUDY, PAIR, TABLE.assign(**changes), facts(), folder)
    with pytest.raises(ValueError, match=r"toy/plain-1\.parquet is damaged: " + message) as error:
        read_run(STUDY, PAIR, folder)
    assert "; delete it, and magnet ablate makes the run again" in str(error.value)


def test_a_table_without_rows_or_columns_is_refused(folder):
    path = folder / "toy/plain-1.parquet"
    write_run(STUDY, PAIR, TABLE[:0], facts(), folder)
    with pytest.raises(ValueError, match=r"plain-1\.parquet is damaged: it holds no split"):
        read_run(STUDY, PAIR, folder)
    TABLE.drop(columns="U").to_parquet(path)
    own = {"sha256": sha256(path.read_bytes()).hexdigest()}
    (folder / "toy/plain-1.json").write_text(json.dumps(facts() | own))
    with pytest.raises(ValueError, match="it has no column U"):
        read_run(STUDY, PAIR, folder)


@pytest.mark.parametrize("kept", [0, 0.3, 0.99])
def test_files_cut_short_are_refused(folder, kept):
    for end in ("parquet", "json"):
        write_run(STUDY, PAIR, TABLE, facts(), folder)
        path = folder / f"toy/plain-1.{end}"
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(ValueError, match=rf"plain-1\.{end} is damaged: it cannot be read .*; delete it"):
            read_run(STUDY, PAIR, folder)


def test_the_table_of_another_run_is_refused(folder):
    write_run(STUDY, ("other", 1), TABLE.assign(I=0), facts(("other", 1)), folder)
    (folder / "toy/other-1.parquet").replace(folder / "toy/plain-1.parquet")
    with pytest.raises(ValueError, match=r"plain-1\.parquet .* not the file that plain-1\.json was written with"):
        read_run(STUDY, PAIR, folder)
    (folder / "toy/other-1.json").replace(folder / "toy/plain-1.json")
    with pytest.raises(ValueError, match=r"plain-1\.json is damaged: it is about toy/other/1; delete it"):
        is_done(STUDY, PAIR, folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        (lambda about: [about], "it holds no facts of a run"),
        (lambda about: {k: v for k, v in about.items() if k != "torch"}, "it has no torch"),
        (lambda about: about | {"study": "other"}, "it is about other/plain/1"),
        (lambda about: about | {"hours": -1}, "hours = -1 is no cost"),
        (lambda about: about | {"hours": None}, "hours = None"),
        (lambda about: about | {"expressions": None}, "expressions = None"),
        (lambda about: about | {"torch": 2.1}, "torch = 2.1"),
        (lambda about: about | {"parameters": float("nan")}, "parameters = nan is no cost"),
    ],
)
def test_facts_that_no_run_writes_are_refused(folder, changes, message):
    path = folder / "toy/plain-1.json"
    path.write_text(json.dumps(changes(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=rf"plain-1\.json is damaged: {message}; delete it, and magnet ablate makes"):
        is_done(STUDY, PAIR, folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"splits": ("val", "testB")},
            r"plain-1\.parquet was scored on val as splits, toy now asks for testB, val; move",
        ),
        ({"num_expressions": 6}, "was scored on all as expressions of a split, toy now asks for 6; move"),
    ],
)
def test_what_the_study_was_given_later_is_missed(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        is_done(replace(STUDY, **changes), PAIR, folder)
    write_run(STUDY, PAIR, TABLE, facts() | {"num_expressions": 6}, folder)
    with pytest.raises(ValueError, match="was scored on 6 as expressions of a split, toy now asks for all"):
        is_done(STUDY, PAIR, folder)


def test_a_changed_table_is_noticed_before_anything_is_trained(folder):
    TABLE.assign(I=0).to_parquet(folder / "toy/plain-1.parquet")
    with pytest.raises(ValueError, match=r"not the file that plain-1\.json was written with; delete it"):
        is_done(STUDY, PAIR, folder)


def made_again() -> Study:
    """Another study with the same runs."""
    return replace(STUDY, name="again")


@pytest.mark.parametrize("changes", [{"I": [0, 10, 7]}, {"split": ["val", "val", "testA"]}, {"sent_id": [3, 5, 3]}])
def test_a_table_that_no_evaluation_writes_is_not_taken_over(folder, changes):
    assert take_over(made_again(), PAIR, folder) == "toy/plain-1"
    write_run(STUDY, PAIR, TABLE.assign(**changes), facts(), folder)  # its sha256 is right
    for path in (folder / "again").iterdir():
        path.unlink()
    assert take_over(made_again(), PAIR, folder) is None and not is_done(made_again(), PAIR, folder)


def test_facts_that_no_run_writes_are_not_taken_over(folder):
    path = folder / "toy/plain-1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hours": None}))
    assert take_over(made_again(), PAIR, folder) is None


@pytest.mark.parametrize("name", [n for n in studies.STUDIES if (ROOT / f"results/tables/study_{n}.csv").exists()])
def test_the_committed_tables_are_what_the_committed_runs_give(name):
    """Without groups and figure, which would take as long again."""
    if not (ROOT / "data/refshapes/instances.json").exists():
        pytest.skip("needs the expressions the runs were scored on: magnet data shapes")
    results = read_finished(studies.STUDIES[name](), ROOT / "data", ROOT / study_files.FOLDER)
    made = {"": variant_table(results), "_effects": effect_table(results), "_errors": error_table(results)}
    for end, table in made.items():
        path = ROOT / f"results/tables/study_{name}{end}.csv"
        assert path.exists() == bool(len(table))
        if len(table):
            again = pd.read_csv(StringIO(table.to_csv(index=False, float_format="%.5g")))
            pd.testing.assert_frame_equal(pd.read_csv(path)[list(again)], again, rtol=1e-4)
