"""What a study's runs show, and how sure that is: by seeds, by images, and by the rule that both must agree.

One run proves little: seeds alone move oIoU by more than many published gains. And seeds alone are not enough, as all
are scored on the same pictures. So a part "helps" or "hurts" only where two intervals exclude 0: Student's t over the
differences of each seed, with Holm's correction over all contrasts that the study states, run or not, and the bootstrap
over images of their mean over seeds. Everything else is "no difference shown".

An interval over seeds leaves 0 out exactly where Holm's test at 5 % rejects. It is that test drawn, no simultaneous
interval of 95 %: as levels grow step by step, all intervals of a study together may cover all true differences less
often.
"""

import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from magnet.statistics import LEVEL, bootstrap, interval
from magnet.workbench.study_results import Results, machines, score_table

TAGS = (
    "kind", "hops", "distractors", "num_same_category", "area_size", "has_location", "has_relation", "has_superlative",
    "has_ordinal", "has_attribute", "has_negation", "has_rare_word", "has_ambiguous",
)  # fmt: skip
ROUNDING = 1e-9  # points; what two equal differences may lie apart
GROUP_DRAWS = 2_000  # groups are for looking, not for deciding


# Tables ---------------------------------------------------------------------------------------------------------------


def variant_table(results: Results) -> pd.DataFrame:
    """A row a variant: seeds that are there of those asked for; mean and standard deviation over them of oIoU, mIoU and
    error shares (percent) on each split; parameters; GFLOP of a picture with one sentence, as
    `benchmark.measure_variants` counts them; mean hours in training steps on each hardware; code versions."""
    rows = []
    for variant in results.study.variants:
        mine = [i for i, (name, _) in enumerate(results.pairs) if name == variant]
        row = {"variant": variant, "n": len(mine), "of": len(results.study.seeds)}
        for split, (index, _) in _splits(results).items():
            for name, value in _values(results, index).items():
                row |= {f"{split} {name}": _mean(value[mine]), f"{split} {name} sd": _deviation(value[mine])}
        facts = [results.facts[i] for i in mine]
        row |= _costs(facts, machines(results))
        rows.append(row | {"code": ", ".join(sorted({one["version"] for one in facts}))})
    return pd.DataFrame(rows)


def _costs(facts: list[dict], hardware: list[str]) -> dict[str, float]:
    """Of a variant's runs; hours of different hardware have no mean."""
    keys = {"parameters": "parameters", "GFLOP inference": "forward_gflop", "GFLOP training": "training_gflop"}
    costs = {column: [one[key] for one in facts] for column, key in keys.items()}
    hours = {f"hours on {one}": [run["hours"] for run in facts if run["hardware"] == one] for one in hardware}
    return {column: _mean(np.array(values)) for column, values in (costs | hours).items()}


def effect_table(results: Results, num_draws: int = 10_000) -> pd.DataFrame:
    """A row for each split, score and contrast of the study: difference (points), both intervals, verdict.

    seeds: how many; difference: their mean; sd: their standard deviation; seed_low, seed_high: Student's t, at the
    level that Holm's method at 5 % gives it among the contrasts of this split and score; image_low, image_high: 95 %;
    detectable: the smallest difference that so many seeds of this spread could show alone, t·sd/√seeds;
    per_seed: the differences. Errors count the other way round: fewer of them help.
    """
    rows = []
    for split, (index, images) in _splits(results).items():
        values = _values(results, index)
        columns = range(len(results.pairs))
        terms = [(top[index, i], low[index, i]) for top, low in results.scores.values() for i in columns]
        draws = bootstrap(images, terms, num_draws).reshape(num_draws, len(values), len(results.pairs))
        for k, (score, value) in enumerate(values.items()):
            facts = {"split": split, "score": score, "expressions": len(index), "images": images.nunique()}
            rows += [facts | row for row in _effects(results, value, draws[:, k])]
    table = pd.DataFrame(rows)
    return table.assign(verdict=[verdict(row, len(results.study.seeds)) for row in table.to_dict("records")])


def _effects(results: Results, values: np.ndarray, draws: np.ndarray) -> list[dict]:
    """A row for each contrast; values (runs,) and draws (num_draws, runs) of one score on one split."""
    contrasts = {name: results.weights(weights)[0] for name, weights in results.study.contrasts().items()}
    differences = {name: weights @ values for name, weights in contrasts.items()}
    rows = []
    for (name, each), (low, high) in zip(differences.items(), seed_intervals(list(differences.values()))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the mean over no seed
            image = [end[0] for end in interval((draws @ contrasts[name].T).mean(axis=1, keepdims=True))]
        rows.append({
            "contrast": name, "seeds": len(each), "difference": _mean(each), "sd": _deviation(each),
            "seed_low": low, "seed_high": high, "image_low": image[0], "image_high": image[1],
            "detectable": detectable(each), "per_seed": " ".join(f"{value:.2f}" for value in each),
        })  # fmt: skip
    return rows


def error_table(results: Results) -> pd.DataFrame:
    """Shares (percent) of the study's kinds of errors on the split that decides, by how many objects could be mistaken
    for the one that is meant: a row a variant and count, mean and standard deviation over seeds."""
    rows = results.expressions[results.expressions["split"] == results.study.splits[0]]
    count = next((tag for tag in ("distractors", "num_same_category") if tag in rows), None)
    table = []
    for variant in results.study.variants if count and results.study.errors else ():
        mine = [i for i, (name, _) in enumerate(results.pairs) if name == variant]
        for value, part in rows.groupby(count) if mine else ():
            row = {"variant": variant, count: value, "expressions": len(part)}
            for name, share in _values(results, part.index.to_numpy()).items():
                if name.endswith(" errors"):
                    row |= {name: _mean(share[mine]), f"{name} sd": _deviation(share[mine])}
            table.append(row)
    return pd.DataFrame(table)


def group_table(results: Results, num_draws: int = GROUP_DRAWS) -> pd.DataFrame:
    """A row for each split, tag, its value, score and contrast: the difference (points) and both intervals at 95 %.

    Of mIoU and the study's errors, as a group's oIoU hangs on its few large objects. Not corrected: of so many rows
    some exclude 0 by chance, so there is no verdict; a guess found here needs a study of its own.
    """
    rows = []
    scores = {name: top for name, (top, _) in results.scores.items() if name != "oIoU"}
    contrasts = {name: results.weights(weights)[0] for name, weights in results.study.contrasts().items()}
    contrasts = {name: weights for name, weights in contrasts.items() if len(weights)}
    if not contrasts:
        return pd.DataFrame()
    names = [(score, name) for score in scores for name in contrasts]
    each = [100 * top @ weights.T for top in scores.values() for weights in contrasts.values()]  # (N, seeds)
    means = np.stack([one.mean(axis=1) for one in each], axis=1) / 100
    for group, index in _groups(results):
        images = results.expressions["image_id"].iloc[index]
        one = np.ones(len(index))
        several = images.nunique() > 1
        draws = bootstrap(images, [(column, one) for column in means[index].T], num_draws if several else 0)
        low, high = interval(draws)
        for k, (score, name) in enumerate(names):
            by_seed = each[k][index].mean(axis=0)
            seed_low, seed_high = t_interval(by_seed, 1 - LEVEL)
            rows.append({
                **group, "score": score, "contrast": name, "expressions": len(index), "seeds": len(by_seed),
                "difference": by_seed.mean(), "seed_low": seed_low, "seed_high": seed_high,
                "image_low": low[k], "image_high": high[k],
            })  # fmt: skip
    return pd.DataFrame(rows)


def simple_effects(results: Results, score: str = "oIoU") -> pd.DataFrame:
    """What each part of a factorial adds beside every setting of the others, on the split that decides (points).

    A row for each part, setting and seed: part; beside: the other parts that are on, or "alone"; seed; difference.
    Where parts add up, one part's differences are the same beside all settings; an interaction is that they are not.
    """
    scores, found = score_table(results, score), {frozenset(on): v for v, on in results.study.factorial.items()}
    rows = []
    for part in results.study.factors:
        for on in sorted((on for on in results.study.factorial.values() if part not in on), key=len):
            each = (scores[found[frozenset((*on, part))]] - scores[found[frozenset(on)]]).dropna()
            row = {"part": part, "beside": " + ".join(on) or "alone"}
            rows += [row | {"seed": seed, "difference": value} for seed, value in each.items()]
    return pd.DataFrame(rows)


def _splits(results: Results) -> dict[str, tuple[np.ndarray, pd.Series]]:
    """split -> its rows, and their images."""
    found = {split: np.flatnonzero(results.expressions["split"] == split) for split in results.study.splits}
    return {split: (index, results.expressions["image_id"].iloc[index]) for split, index in found.items()}


def _groups(results: Results) -> Iterator[tuple[dict, np.ndarray]]:
    for split, (index, _) in _splits(results).items():
        for tag in TAGS:
            if tag in results.expressions:
                for value, rows in results.expressions.iloc[index].groupby(tag).indices.items():
                    yield {"split": split, "tag": tag, "value": value}, index[rows]


def _values(results: Results, index: np.ndarray) -> dict[str, np.ndarray]:
    """score -> (runs,), percent."""
    return {name: 100 * top[index].sum(0) / low[index].sum(0) for name, (top, low) in results.scores.items()}


def _mean(values: np.ndarray) -> float:
    return values.mean() if len(values) else np.nan


def _deviation(values: np.ndarray) -> float:
    return values.std(ddof=1) if len(values) > 1 else np.nan


# The rule -------------------------------------------------------------------------------------------------------------


def t_interval(differences: np.ndarray, alpha: float) -> tuple[float, float]:
    """Student's t interval of level 1 - alpha of the mean of (n,) differences; NaN below two, and where all are one
    value other than 0: without any spread they do not say how far others would lie from it."""
    if len(differences) < 2:
        return np.nan, np.nan
    if _are_equal(differences):
        return (np.nan, np.nan) if abs(differences[0]) > ROUNDING else (0.0, 0.0)
    half = stats.t.isf(alpha / 2, len(differences) - 1) * stats.sem(differences)
    return differences.mean() - half, differences.mean() + half


def detectable(differences: np.ndarray) -> float:
    """Half the 95 % interval: 2.48 standard deviations of three seeds' differences, 1.24 of five's; NaN below two."""
    low, high = t_interval(differences, 1 - LEVEL)
    return (high - low) / 2


def holm_levels(p_values: np.ndarray, alpha: float = 1 - LEVEL) -> np.ndarray:
    """The level at which Holm's method tests each of m hypotheses (Holm 1979): alpha / m for the smallest p, then
    alpha / (m - 1)...; from the first that is not rejected on, all share its level. So p < level if and only if Holm
    rejects, and an interval of that level leaves 0 out exactly there; together the intervals are not simultaneous."""
    order, levels = np.argsort(p_values), alpha / np.arange(len(p_values), 0, -1)
    kept = np.flatnonzero(p_values[order] >= levels)
    if len(kept):
        levels[kept[0] :] = levels[kept[0]]
    found = np.empty(len(p_values))
    found[order] = levels
    return found


def seed_intervals(differences: list[np.ndarray]) -> list[tuple[float, float]]:
    """t intervals of several contrasts at Holm's levels. Those that have fewer than two seeds count with p = 1: what a
    study asks is paid for from the start, or an early look would show more than the whole."""
    levels = holm_levels(np.array([_p_value(each) for each in differences]))
    return [t_interval(each, level) for each, level in zip(differences, levels)]


def _p_value(differences: np.ndarray) -> float:
    """Two-sided, of a mean of 0; 1 where all are equal and where there are fewer than two."""
    if len(differences) < 2 or _are_equal(differences):
        return 1.0
    return 2 * stats.t.sf(abs(differences.mean()) / stats.sem(differences), len(differences) - 1)


def _are_equal(differences: np.ndarray) -> bool:
    return np.ptp(differences) <= ROUNDING


def verdict(effect: dict, num_wanted: int) -> str:
    """By a row of `effect_table`: "helps" or "hurts" only where both intervals lie on one side of 0.

    num_wanted: the study's seeds. A look at fewer says so: the levels do not pay for looking several times.
    """
    seeds = effect["seeds"]
    if seeds < 2:
        return f"no claim: {seeds} seed{'s' * (seeds != 1)}"
    if np.isnan(effect["seed_low"]):
        return f"no claim: {seeds} seeds without spread"
    said, details = _side(effect), []
    if early := seeds < num_wanted:
        details.append(f"{seeds} of {num_wanted} seeds")
    if said is None:
        said = "no difference shown"
        details.append(f"detectable alone: {effect['detectable']:.1f}")
    said += " so far" if early else ""
    return f"{said} ({'; '.join(details)})" if details else said


def _side(effect: dict) -> str | None:
    lows, highs = (np.array([effect[f"seed_{end}"], effect[f"image_{end}"]]) for end in ("low", "high"))
    fewer_is_better = effect["score"].endswith(" errors")
    if (lows > 0).all():
        return "hurts" if fewer_is_better else "helps"
    if (highs < 0).all():
        return "helps" if fewer_is_better else "hurts"
    return None
