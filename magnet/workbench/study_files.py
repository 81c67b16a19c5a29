"""What a study keeps of a run, small, and what must be true of it to be believed.

results/studies/<study>/<variant>-<seed>.parquet   # a row an expression: split, sent_id, I, U, error
results/studies/<study>/<variant>-<seed>.json      # configuration, cost, and from what it was made

I and U are pixels, error is a kind of errors.py. A run whose two files are there is done, wherever it was made; what
one study made serves another that has the same run under a name of its own.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

import pandas as pd

from magnet import runs
from magnet.workbench.errors import KINDS
from magnet.workbench.study import Study

FOLDER = Path("results/studies")
COLUMNS = ["split", "sent_id", "I", "U", "error"]
NUMBERS = ("hours", "parameters", "forward_gflop", "training_gflop")
KINDS_OF_FACTS = {
    **dict.fromkeys(("study", "variant", "digest", "version", "hardware", "torch", "sha256"), str), "seed": int,
    **dict.fromkeys(("config", "expressions"), dict), **dict.fromkeys(NUMBERS, int | float),
}  # fmt: skip
Pair = tuple[str, int]  # variant, seed


def name_of(pair: Pair) -> str:
    return f"{pair[0]}-{pair[1]}"


def paths(study: Study, pair: Pair, folder: Path = FOLDER) -> tuple[Path, Path]:
    """The table and the facts of a run."""
    place = folder / study.name
    return place / f"{name_of(pair)}.parquet", place / f"{name_of(pair)}.json"


def write_run(study: Study, pair: Pair, table: pd.DataFrame, facts: dict, folder: Path = FOLDER) -> None:
    """Both files; the facts last: with them the run is done."""
    place, about = paths(study, pair, folder)
    runs.atomic_write(place, lambda file: table[COLUMNS].to_parquet(file, index=False, compression="zstd"))
    runs.write_json(about, facts | {"sha256": _sha256(place)})


def is_done(study: Study, pair: Pair, folder: Path = FOLDER) -> bool:
    """Whether its results are there; ValueError where they are damaged, or those of another configuration or of other
    expressions than the study asks for."""
    table, about = paths(study, pair, folder)
    if not (table.exists() and about.exists()):
        return False
    found, wanted = _read_facts(study, pair, about), study.digest(*pair)
    if found["digest"] != wanted:
        now = runs.config_to_dict(study.config(*pair))
        raise ValueError(
            f"{table} was made with configuration {found['digest']}, the study {study.name} now has {wanted} "
            f"({_difference(found['config'], now)}); {_other_name(table)}"
        )
    _check_own(found, table)
    _check_scored(study, found, table)
    return True


def take_over(study: Study, pair: Pair, folder: Path = FOLDER) -> str | None:
    """The results of the same run, copied from another study that has made it: its name, as "components/cam-0".

    The same is what has the same digest, and was scored on all that this study asks for. `made_for` in the facts says
    whose it is. None where there is none; damaged ones do not count.
    """
    for about in sorted(folder.glob(f"*/*-{pair[1]}.json")):
        table = about.with_suffix(".parquet")
        with suppress(ValueError, KeyError, TypeError):  # another study's files are not this one's to judge
            facts = _read_any_facts(about)
            if facts["digest"] == study.digest(*pair) and facts["study"] != study.name:
                _check_scored(study, facts, table)
                made_for = f"{facts['study']}/{table.stem}"
                own = {"study": study.name, "variant": pair[0], "init": study.start(pair[0]), "made_for": made_for}
                write_run(study, pair, _read_table(table, facts), facts | own, folder)
                return made_for
    return None


def read_run(study: Study, pair: Pair, folder: Path = FOLDER) -> tuple[pd.DataFrame, dict]:
    """Table and facts of a run that is done, of the study's splits alone: it may have been scored on more. ValueError
    names the file, what is wrong with it and what helps."""
    place, about = paths(study, pair, folder)
    facts = _read_facts(study, pair, about)
    table = _read_table(place, facts)
    made = {split: digest for split, digest in facts["expressions"].items() if split in study.splits}
    return table[table["split"].isin(study.splits)].reset_index(drop=True), facts | {"expressions": made}


def code_version(about: dict) -> str:
    """By what `runs.environment` says."""
    return f"{about['packages']['magnet-workbench']} ({about['commit'] or 'commit not known'})"


def _read_table(place: Path, facts: dict) -> pd.DataFrame:
    """ValueError where it is not what an evaluation writes, or not what the facts are about."""
    table = _read(place, pd.read_parquet)
    _check_own(facts, place)
    if fault := _fault(table) or _split_fault(table, facts):
        raise _damaged(place, fault)
    return table


def _read_facts(study: Study, pair: Pair, path: Path) -> dict:
    facts = _read_any_facts(path)
    if (own := (facts["study"], facts["variant"], facts["seed"])) != (study.name, *pair):
        raise _damaged(path, f"it is about {'/'.join(map(str, own))}")
    return facts


def _read_any_facts(path: Path) -> dict:
    """Of whichever run."""
    facts = _read(path, lambda file: json.loads(file.read_text()))
    if not isinstance(facts, dict):
        raise _damaged(path, "it holds no facts of a run")
    for name, kind in KINDS_OF_FACTS.items():
        if not isinstance(facts.get(name), kind):
            raise _damaged(path, f"{name} = {facts[name]!r}" if name in facts else f"it has no {name}")
    for name in NUMBERS:
        if not facts[name] >= 0:
            raise _damaged(path, f"{name} = {facts[name]!r} is no cost")
    return facts


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except (ValueError, OSError) as error:  # what JSON, text and pyarrow raise are ValueErrors
        raise _damaged(path, f"it cannot be read ({error})") from error


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged: {why}; delete it, and magnet ablate makes the run again")


def _fault(table: pd.DataFrame) -> str | None:
    """The first thing that no evaluation writes."""
    if missing := [name for name in COLUMNS if name not in table]:
        return f"it has no column {missing[0]}"
    if len(twice := table["sent_id"][table["sent_id"].duplicated()]):
        return f"it holds sent_id {twice.iloc[0]} twice"
    if len(others := table["error"][~table["error"].isin(KINDS)]):
        return f"there is no kind of error {others.iloc[0]!r}"
    inside, union = (pd.to_numeric(table[name], errors="coerce") for name in ("I", "U"))
    wrong = ~(inside.between(0, union) & (union < inf))  # so where one is NaN
    if wrong.any():
        row = table[wrong].iloc[0]
        return f"sent_id {row['sent_id']} has I = {row['I']} and U = {row['U']}, but 0 ≤ I ≤ U"
    return None


def _split_fault(table: pd.DataFrame, facts: dict) -> str | None:
    there, told = set(table["split"]), set(facts["expressions"])
    if there != told:
        return f"it holds {_listed(there)}, the facts beside it are about {_listed(told)}"
    return None


def _check_own(facts: dict, table: Path) -> None:
    if facts["sha256"] != _sha256(table):
        raise _damaged(table, f"it is not the file that {table.stem}.json was written with")


def _check_scored(study: Study, facts: dict, table: Path) -> None:
    """Runs from before it was written down were scored on all expressions."""
    for what, made, wanted in (
        ("splits", set(facts["expressions"]), set(study.splits)),
        ("expressions of a split", {facts.get("num_expressions") or "all"}, {study.num_expressions or "all"}),
    ):
        if wanted - made:
            said = f"{table} was scored on {_listed(made)} as {what}, {study.name} now asks for {_listed(wanted)}"
            raise ValueError(f"{said}; {_other_name(table)}")


def _other_name(table: Path) -> str:
    return f"move {table.parent} away, or give the study another name"


def _listed(names: set) -> str:
    return ", ".join(sorted(map(str, names))) or "no split"


def _difference(there: dict, now: dict, where: str = "") -> str:
    """The first setting that differs."""
    for key in now.keys() | there.keys():
        own, other = there.get(key), now.get(key)
        if isinstance(own, dict) and isinstance(other, dict) and own != other:
            return _difference(own, other, f"{where}{key}.")
        if own != other:
            return f"{where}{key} = {own!r} there, {other!r} now"
    return "the run that it starts from is another"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
