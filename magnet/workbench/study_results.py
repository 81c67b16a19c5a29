"""A study's finished runs, read and put side by side: only what was made with one configuration on one set of
expressions is compared.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from magnet import runs
from magnet.data import read_refer
from magnet.metrics import PROTOCOLS
from magnet.statistics import check_ids
from magnet.workbench.study import Study
from magnet.workbench.study_files import FOLDER, Pair, code_version, is_done, name_of, read_run
from magnet.workbench.weights import digest


@dataclass(frozen=True)
class Results:
    """A study's finished runs on the same expressions.

    expressions: (N,) rows of the expression table; scores: name -> ((N, runs) numerator, denominator), its value is 100
    times the ratio of their sums; facts: what stands beside each run's table.
    """

    study: Study
    expressions: pd.DataFrame
    pairs: list[Pair]
    scores: dict[str, tuple[np.ndarray, np.ndarray]]
    facts: list[dict]

    def weights(self, contrast: dict[str, float]) -> tuple[np.ndarray, list[int]]:
        """A row for each seed that has all of its variants: (seeds, runs), and those seeds."""
        there = {seed: {v for v, s in self.pairs if s == seed} for seed in sorted({s for _, s in self.pairs})}
        seeds = [seed for seed, variants in there.items() if contrast.keys() <= variants]
        rows = [[contrast.get(v, 0.0) * (s == seed) for v, s in self.pairs] for seed in seeds]
        return np.array(rows).reshape(len(seeds), len(self.pairs)), seeds


def read_finished(study: Study, root: str | Path | None = None, folder: Path = FOLDER) -> Results:
    """All runs of the study that are there, variant by variant.

    Raises FileNotFoundError where there is none, ValueError where one is damaged, has another configuration, or was
    scored on other expressions than the first or than those of the data set under `root`.
    """
    pairs = [(variant, seed) for variant in study.variants for seed in study.seeds]
    pairs = [pair for pair in pairs if is_done(study, pair, folder)]
    if not pairs:
        there = f"no finished run in {folder / study.name}"
        raise FileNotFoundError(
            f"{there}; make them with: magnet ablate {study.name} (your own study: its file's path)"
        )
    tables, facts = zip(*(read_run(study, pair, folder) for pair in pairs))
    for pair, table, about in zip(pairs, tables, facts):
        _check_same(study, (pairs[0], tables[0], facts[0]), (pair, table, about))
    ids = tables[0]["sent_id"]
    columns = [table.set_index("sent_id").loc[ids] for table in tables]
    expressions = _expressions(study, tables[0], facts[0]["expressions"], root)
    return Results(study, expressions, pairs, _scores(study, columns), list(facts))


def side_by_side(study: Study, tables: dict[Pair, pd.DataFrame]) -> Results:
    """Runs of a study that were scored by hand, without facts: (variant, seed) -> `evaluate`'s table of one split.

    Raises ValueError where two of them hold other expressions.
    """
    (first, own), *_ = tables.items()
    for pair, table in tables.items():
        check_ids(f"{name_of(pair)} (against {name_of(first)})", table["sent_id"], own["sent_id"])
        check_ids(f"{name_of(first)} (against {name_of(pair)})", own["sent_id"], table["sent_id"])
    columns = [table.set_index("sent_id").loc[own["sent_id"]] for table in tables.values()]
    expressions = own.reset_index(drop=True).assign(split=study.splits[0])
    return Results(study, expressions, list(tables), _scores(study, columns), facts=[])


def score_table(results: Results, score: str = "oIoU") -> pd.DataFrame:
    """The score of every run on the split that decides, percent: a row a seed, a column a variant."""
    top, low = (part[results.expressions["split"] == results.study.splits[0]] for part in results.scores[score])
    values = pd.Series(
        100 * top.sum(0) / low.sum(0), pd.MultiIndex.from_tuples(results.pairs, names=["variant", "seed"])
    )
    return values.unstack("variant").reindex(columns=list(results.study.variants))


def _check_same(study: Study, first: tuple, other: tuple) -> None:
    (own, own_table, own_facts), (pair, table, facts) = first, other
    names = [f"{study.name}/{name_of(one)}" for one in (own, pair)]
    check_ids(f"{names[0]} (against {names[1]})", own_table["sent_id"], table["sent_id"])
    check_ids(f"{names[1]} (against {names[0]})", table["sent_id"], own_table["sent_id"])
    if facts["expressions"] != own_facts["expressions"]:
        raise ValueError(f"{names[0]} and {names[1]} were scored on other sentences or masks under the same sent_ids")


def _expressions(study: Study, scored: pd.DataFrame, digests: dict[str, str], root: str | Path | None) -> pd.DataFrame:
    """The expression table's rows of a run's sent_ids, in their order."""
    ids = scored["sent_id"]
    data = study.config(next(iter(study.variants)), 0, root).data
    table = read_refer(data.root, data.name, data.split_by, data.polygon_overlap)
    check_ids(f"{data.name} in {table.attrs['root']}", table["sent_id"], ids)
    rows = table.set_index("sent_id", drop=False).loc[ids].reset_index(drop=True)
    for split, made in digests.items():
        if digest(rows[rows["split"] == split]) != made:
            there = f"{table.attrs['root']} holds another {split} of {data.name}"
            raise ValueError(f"{there} than {study.name} was scored on; give the data set of its runs with --root")
    if (wrong := rows["split"].to_numpy() != scored["split"].to_numpy()).any():
        raise ValueError(f"{study.name}: sent_id {rows.loc[wrong, 'sent_id'].iloc[0]} stands under another split there")
    return rows


def _scores(study: Study, tables: list[pd.DataFrame]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    inside, union = (np.stack([table[name].to_numpy(float) for table in tables], axis=1) for name in ("I", "U"))
    one = np.ones_like(union)
    scores = {"oIoU": (inside, union), "mIoU": (PROTOCOLS["original"].iou(inside, union), one)}
    kinds = {kind: np.stack([table["error"] == kind for table in tables], axis=1) for kind in study.errors}
    return scores | {f"{kind} errors": (rows.astype(float), one) for kind, rows in kinds.items()}


def machines(results: Results) -> list[str]:
    """What the runs were made on; a table calls them #1, #2 and so on."""
    return sorted({one["hardware"] for one in results.facts})


def notes(results: Results) -> list[str]:
    """What a reader of the tables must know: missing runs, code other than the present one's, machines that differ or
    may differ."""
    return [*_missing(results), *_other_code(results), *_several_machines(results), *_silent_machines(results)]


def _missing(results: Results) -> list[str]:
    wanted = results.study.chosen()
    missing = [pair for pair in wanted if pair not in results.pairs]
    return [f"{len(missing)} of {len(wanted)} runs are missing: {_first(missing)}"] if missing else []


def _first(pairs: list[Pair]) -> str:
    return ", ".join(map(name_of, pairs[:5])) + (", ..." if len(pairs) > 5 else "")


def _other_code(results: Results) -> list[str]:
    """What holds changes that no commit has, "-dirty", is never the present version: nobody knows which they were."""
    versions, now = {one["version"] for one in results.facts}, code_version(runs.environment())
    others = sorted(one for one in versions if one != now or "-dirty" in one)
    if not others:
        return []
    said = f"made with other code than this one, {now}: {', '.join(others)}"
    if any("-dirty" in one for one in others):
        said += "; -dirty is code with changes that no commit holds"
    if len(versions) > 1:
        said += "; runs of several versions are compared, see column code, and GFLOP are as each was counted then"
    return [said]


def _several_machines(results: Results) -> list[str]:
    """A difference of runs from two machines holds what their arithmetic differs by, too."""
    made_on = pd.DataFrame(results.facts, columns=["hardware", "torch"])
    if len(made_on.drop_duplicates()) < 2:
        return []
    torch = made_on.groupby("hardware")["torch"].unique()  # in the order of `machines`
    several = "; ".join(f"#{i} {one}, torch {', '.join(sorted(torch[one]))}" for i, one in enumerate(torch.index, 1))
    mixed = ", ".join(f"seed {seed}" for seed in _mixing_seeds(results, made_on)) or "none"
    return [f"made on several machines, whose arithmetic may differ: {several}. Differences that mix them: {mixed}"]


def _silent_machines(results: Results) -> list[str]:
    """Runs on a processor that were made before it was written down; a GPU's name says it."""
    silent = [pair for pair, one in zip(results.pairs, results.facts) if one["hardware"].endswith(" threads")]
    said = "do not say whether their machine multiplies bfloat16, so whether they were trained in it"
    return [f"{len(silent)} of {len(results.pairs)} runs {said}: {_first(silent)}"] if silent else []


def _mixing_seeds(results: Results, made_on: pd.DataFrame) -> list[int]:
    found = set()
    for contrast in results.study.contrasts().values():
        for weights, seed in zip(*results.weights(contrast)):
            if len(made_on[weights != 0].drop_duplicates()) > 1:
                found.add(seed)
    return sorted(found)
