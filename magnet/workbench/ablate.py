"""`magnet ablate STUDY`: trains and scores every variant with every seed, and keeps what an analysis needs, small.

What is kept lies in results/studies (study_files.py); trained weights stay in results/runs.
"""

import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

import magnet
from magnet import runs
from magnet.data import read_refer, select_split
from magnet.workbench.benchmark import Stepper
from magnet.workbench.errors import error_kinds
from magnet.workbench.study import Study
from magnet.workbench.study_files import COLUMNS, FOLDER, Pair, code_version, is_done, name_of, take_over, write_run
from magnet.workbench.weights import digest

_logger = logging.getLogger(__name__)


def ablate(
    study: Study, seeds: tuple[int, ...] = (), variants: tuple[str, ...] = (), shard: tuple[int, int] = (0, 1),
    root: str | Path | None = None, folder: Path = FOLDER, progress: bool = True,
) -> dict[str, Exception]:  # fmt: skip
    """Make what is missing of the study's runs, seed by seed; gives the error of each that failed, by its name.

    Args:
        seeds, variants: only these; () is all.
        shard: (i, n): the i-th of n parts of the work, as `share` deals it.
        root: data folder, as `read_refer` takes it.
    Raises ValueError for an unknown variant or seed, for a setting that does not exist, or where a file is damaged or
    holds the results of another configuration; FileNotFoundError where the data is not there; KeyboardInterrupt saying
    how to go on.
    """
    pairs = share(study, study.chosen(variants, seeds), shard)
    _check_place(folder / study.name)
    missing = [pair for pair in pairs if not (is_done(study, pair, folder) or _taken_over(study, pair, folder))]
    _check_data(study, missing, root)
    failed, times = {}, []
    for number, pair in enumerate(missing, start=len(pairs) - len(missing) + 1):
        began = time.monotonic()
        try:
            said = _make(study, pair, failed, root, folder, progress)
        except KeyboardInterrupt as stopped:
            done = f"{number - 1 - len(failed)} of {len(pairs)} runs of {study.name} are done"
            raise KeyboardInterrupt(f"{str(stopped) or 'stopped'}\n{done}; the same command goes on") from None
        except Exception as error:  # one that fails, for whatever reason, must not cost a night
            _logger.error("%s failed", name_of(pair), exc_info=error)
            failed[name_of(pair)], said = error, f"failed: {error}"
        times.append(time.monotonic() - began)
        left = timedelta(seconds=round(sum(times) / len(times) * (len(pairs) - number)))
        print(f"[{number}/{len(pairs)}] {study.name} {name_of(pair)}: {said}; about {left} left", flush=True)
    return failed


@contextmanager
def smoke_place(study: Study, root: str | Path | None = None) -> Iterator[tuple[Study, Path]]:
    """The study at no useful size and a data folder, by default the shipped one, while the working folder is a
    temporary one: nothing is kept, also where it is stopped, which KeyboardInterrupt says."""
    root = Path(root).resolve() if root else Path(magnet.__file__).parent / "assets"
    with TemporaryDirectory() as folder, chdir(folder):
        try:
            yield study.smoke(), root
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; a smoke test keeps nothing, the same command starts it anew") from None


def share(study: Study, pairs: list[Pair], shard: tuple[int, int]) -> list[Pair]:
    """Those of the i-th of n machines, whose arithmetic may differ: whole seeds, every n-th, so that no difference
    mixes machines; where machines outnumber seeds, a part of one. What starts from a run goes where that one is."""
    index, num = shard
    if not 0 <= index < num:
        raise ValueError(f"shard {index}/{num}: the first number is one from 0 to {num - 1}")
    first = {pair: (study.start(pair[0]) or pair[0], pair[1]) for pair in pairs}
    dealt = _dealt(list(dict.fromkeys(first.values())), num)
    return [pair for pair in pairs if dealt[first[pair]] == index]


def _dealt(starts: list[Pair], num: int) -> dict[Pair, int]:
    """The shard of each. Where several share a seed, they change places from seed to seed: a variant that was always on
    the first of them, say, would be credited with what that machine computes another way."""
    seeds, dealt = list(dict.fromkeys(seed for _, seed in starts)), {}
    for k, seed in enumerate(seeds):
        shards = range(k, num, len(seeds)) or [k % num]
        mine = [pair for pair in starts if pair[1] == seed]
        dealt |= {pair: shards[(i + k) % len(shards)] for i, pair in enumerate(mine)}
    return dealt


# One run --------------------------------------------------------------------------------------------------------------


def _check_data(study: Study, pairs: list[Pair], root: str | Path | None) -> None:
    """Before hours of training: are all splits there, and does every configuration exist."""
    for variant in dict.fromkeys(variant for variant, _ in pairs):
        data = study.config(variant, 0, root).data
        table = read_refer(data.root, data.name, data.split_by, data.polygon_overlap)
        for split in study.splits:
            select_split(table, split)


def _check_place(place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)  # names a file that stands in its way
    if not os.access(place, os.W_OK):
        raise PermissionError(f"{place} cannot be written to; results of runs belong there")


def _taken_over(study: Study, pair: Pair, folder: Path) -> bool:
    if made_for := take_over(study, pair, folder):
        print(f"{study.name} {name_of(pair)} is the same run as {made_for}, which is done")
    return made_for is not None


def _make(study: Study, pair: Pair, failed: dict, root: str | Path | None, folder: Path, progress: bool) -> str:
    """Train, score and write one run; what to say of it."""
    began, start = time.monotonic(), study.start(pair[0])
    if start and name_of((start, pair[1])) in failed:
        raise RuntimeError(f"{name_of((start, pair[1]))}, which it starts from, failed")
    run = _train(study, pair, root, progress)
    scored = {split: _score(study, run, split) for split in study.splits}
    whole = pd.concat([rows for rows, _ in scored.values()], ignore_index=True)
    facts = _facts(study, pair, run) | {"expressions": {split: made for split, (_, made) in scored.items()}}
    write_run(study, pair, whole, facts, folder)
    first = whole[whole["split"] == study.splits[0]]
    return f"{study.splits[0]} oIoU {100 * first['I'].sum() / first['U'].sum():.1f}, {_minutes(began)}"


def _minutes(began: float) -> str:
    return f"{(time.monotonic() - began) / 60:.1f} min"


def _train(study: Study, pair: Pair, root: str | Path | None, progress: bool) -> runs.Run:
    """The finished run. One that it starts from is trained first where its folder is not on this machine."""
    start = study.start(pair[0])
    init = _train(study, (start, pair[1]), root, progress) if start else None
    return magnet.fit(study.config(*pair, root), init=init, progress=progress)


def _score(study: Study, run: runs.Run, split: str) -> tuple[pd.DataFrame, str]:
    """Rows of `COLUMNS`, and a digest of sentences and true masks: what else was scored cannot be compared. Always
    anew, as a table that the run keeps may be of data that lay there before."""
    data = run.config.data
    results = magnet.evaluate(run, split=split, num_expressions=study.num_expressions, progress=False)
    expressions = read_refer(data.root, data.name, data.split_by, data.polygon_overlap)
    chosen = expressions.set_index("sent_id", drop=False).loc[results["sent_id"]].reset_index(drop=True)
    chosen.attrs = expressions.attrs
    table = results.assign(split=split, error=list(error_kinds(results, chosen)))[COLUMNS]
    table.attrs = {}
    return table, digest(chosen)


def _facts(study: Study, pair: Pair, run: runs.Run) -> dict:
    """hours: in training steps, from the run's log, so that neither a pause nor an earlier study counts; GFLOP and
    parameters: as `Stepper.cost` of the code that scores counts them; version, hardware, torch: where the training
    began, also where it went on or was scored elsewhere; scored_by: the version that did."""
    log = [line for line in run.log() if "images_per_second" in line]
    seconds = sum(run.config.optim.batch_size / max(line["images_per_second"], 0.01) for line in log)
    about = runs.read_json(run.folder / "environment.json")
    return {
        "study": study.name, "variant": pair[0], "seed": pair[1], "digest": study.digest(*pair),
        "config": runs.config_to_dict(study.config(*pair)), "init": study.start(pair[0]),
        "num_expressions": study.num_expressions,
        "hours": seconds / 3600, **Stepper(run.config, batch_size=1).cost(), "version": code_version(about),
        "scored_by": code_version(runs.environment()),
        "hardware": ", ".join([about["processor"], *about["gpus"]]), "torch": about["packages"]["torch"],
        "command": shlex.join(["magnet", *sys.argv[1:]]), "date": date.today().isoformat(),
    }  # fmt: skip
