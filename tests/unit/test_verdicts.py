"""The verdicts: against formulas written another way, against loops, and against what was put in."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import ASSETS
from matplotlib.collections import LineCollection
from scipy import stats
from test_plots import pixels

from magnet.statistics import compare, image_counts
from magnet.workbench import studies, verdicts
from magnet.workbench.pretend import pretend, read_or_pretend
from magnet.workbench.study import Study
from magnet.workbench.study_plots import beside_others, effect_forest, learning_curves
from magnet.workbench.study_report import (
    latex,
    markdown,
    report_study,
    short_effects,
    short_errors,
    short_groups,
    short_variants,
)
from magnet.workbench.study_results import Results, notes, score_table, side_by_side

FACTS = {
    "parameters": 3e6, "forward_gflop": 0.4, "training_gflop": 0.9, "hours": 0.1, "version": "0.1.0 (abc)",
    "hardware": "a laptop", "torch": "2.14",
}  # fmt: skip
FOUR = {"none": (), "a": ("A",), "b": ("B",), "ab": ("A", "B")}


def study(**fields) -> Study:
    given = {"name": "toy", "claim": "c", "refuted_by": "r", "variants": {"a": {}, "b": {}}, "splits": ("val",)}
    return Study(**given | {"comparisons": (("A", "a", "b"),)} | fields)


def made_up(made, gains, num_seeds=5, num_rows=600, num_images=80, spread=0.02, noise=0.05, seed=0) -> Results:
    """A pretended study on expressions without a data set."""
    rows = np.arange(num_rows)
    expressions = pd.DataFrame({"sent_id": rows, "image_id": rows % num_images, "kind": np.where(rows % 3, "x", "y")})
    expressions["split"] = np.array(made.splits)[rows % len(made.splits)]
    results = pretend(made, expressions, gains, num_seeds, spread, noise, seed)
    return replace(results, facts=[FACTS] * len(results.pairs))


# The rule -------------------------------------------------------------------------------------------------------------


def test_the_t_interval_is_scipys():
    values = np.array([1.2, 0.4, 2.0, 1.1, 0.9])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert verdicts.t_interval(values, 0.05) == pytest.approx(tuple(expected))
    assert verdicts.t_interval(values - values.mean(), 0.05)[1] == pytest.approx(
        2.776 * values.std(ddof=1) / 5**0.5, rel=1e-3
    )
    assert np.isnan(verdicts.t_interval(values[:1], 0.05)).all()


def test_the_smallest_detectable_difference_is_that_of_the_rule():
    for num, factor in ((3, 2.48), (5, 1.24)):
        values = np.random.default_rng(num).normal(size=num)
        assert verdicts.detectable(values) == pytest.approx(factor * values.std(ddof=1), rel=2e-3)
    assert np.isnan(verdicts.detectable(np.array([1.0])))


def test_holm_by_hand():
    # three tests: 0.05/3, 0.05/2, 0.05
    assert verdicts.holm_levels(np.array([0.04, 0.01, 0.02])) == pytest.approx([0.05, 0.05 / 3, 0.025])  # all rejected
    # 0.03 fails at 0.025: the rest stop there, though 0.04 < 0.05
    assert verdicts.holm_levels(np.array([0.04, 0.03, 0.01])) == pytest.approx([0.025, 0.025, 0.05 / 3])
    assert verdicts.holm_levels(np.array([0.9, 0.02, 0.8])) == pytest.approx([0.05 / 3] * 3)  # none
    assert verdicts.holm_levels(np.array([])).shape == (0,)


def holm_rejects(p_values, alpha=0.05):
    """The textbook's loop."""
    rejected, order = [False] * len(p_values), sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        if p_values[i] >= alpha / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def test_intervals_leave_0_out_where_holms_loop_rejects():
    generator, met = np.random.default_rng(1), set()
    for _ in range(200):
        each = [generator.normal(loc, 1, size=5) for loc in generator.choice([0.0, 1.5, 4.0], size=4)]
        rejected = holm_rejects([stats.ttest_1samp(values, 0).pvalue for values in each])
        intervals = verdicts.seed_intervals(each)
        assert [low > 0 or high < 0 for low, high in intervals] == rejected
        met.add(sum(rejected))
    assert len(met) == 5, "none, some and all were rejected"


def test_a_question_without_seeds_is_paid_for_and_equal_differences_are_no_puzzle():
    one, same, zero = np.array([3.0]), np.array([2.0, 2.0, 2.0]), np.zeros(3)
    several = np.array([1.0, 1.4, 0.8])
    lone, other = verdicts.seed_intervals([one, several])
    assert np.isnan(lone).all() and other == pytest.approx(verdicts.t_interval(several, 0.05 / 2))
    seen, at_zero = verdicts.seed_intervals([same, zero])
    assert np.isnan(seen).all() and at_zero == (0.0, 0.0) and np.isnan(verdicts.detectable(same))


def test_two_seeds_that_agree_show_nothing_and_take_nothing_from_the_others():
    """Equal but for rounding: 0.3 − 0.2 is not 0.1, and no spread of theirs."""
    agree, several = np.array([0.3 - 0.2, 0.1]), np.array([1.0, 1.4, 0.8])
    seen, other = verdicts.seed_intervals([agree, several])
    assert np.isnan(seen).all() and other == pytest.approx(verdicts.t_interval(several, 0.05 / 2))
    low, high = seen
    assert verdict(2, seeds=2, seed_low=low, seed_high=high) == "no claim: 2 seeds without spread"
    assert verdicts.t_interval(agree - 0.1, 0.05) == (0.0, 0.0)


def verdict(num_wanted=5, **fields) -> str:
    ends = {"seed_low": 0.5, "seed_high": 2.0, "image_low": 0.1, "image_high": 1.0}
    return verdicts.verdict({"seeds": 5, "score": "oIoU", "detectable": 0.75, **ends} | fields, num_wanted)


def test_both_intervals_must_agree():
    assert verdict() == "helps"
    assert verdict(seed_low=-0.1) == "no difference shown (detectable alone: 0.8)"
    assert verdict(image_low=-0.1).startswith("no difference shown")
    below = {"seed_low": -2.0, "seed_high": -0.5, "image_low": -1.0, "image_high": -0.1}
    assert verdict(**below) == "hurts"
    assert verdict(**below | {"image_low": 0.1, "image_high": 0.2}).startswith("no difference")
    assert verdict(score="part errors") == "hurts", "more errors"
    assert verdict(score="part errors", **below) == "helps"
    assert verdict(seeds=1) == "no claim: 1 seed" and verdict(seeds=0).endswith("0 seeds")


def test_a_verdict_on_fewer_seeds_than_the_study_asks_for_says_so():
    below = {"seed_low": -2.0, "seed_high": -0.5, "image_low": -1.0, "image_high": -0.1}
    assert verdict(seeds=2) == "helps so far (2 of 5 seeds)"
    assert verdict(seeds=4, **below) == "hurts so far (4 of 5 seeds)"
    assert verdict(seeds=3, seed_low=-0.1) == "no difference shown so far (3 of 5 seeds; detectable alone: 0.8)"
    assert verdict(seeds=5) == verdict(num_wanted=3, seeds=5) == "helps", "more than were asked for"


def test_chance_alone_is_rarely_called_a_difference():
    """400 studies of four contrasts without any effect: at most about 5 % may show one, by seeds."""
    generator = np.random.default_rng(2)
    wrong = 0
    for _ in range(400):
        intervals = verdicts.seed_intervals(list(generator.normal(size=(4, 5))))
        wrong += any(low > 0 or high < 0 for low, high in intervals)
    assert stats.binom.sf(wrong - 1, 400, 0.05) > 1e-3


# Tables ---------------------------------------------------------------------------------------------------------------


def test_a_comparison_is_the_mean_over_seeds_of_paired_differences():
    results = made_up(study(), {"a": 0.05})
    row = verdicts.effect_table(results, num_draws=400).set_index("score").loc["oIoU"]
    inside, union = results.scores["oIoU"]
    own = 100 * inside.sum(0) / union.sum(0)
    each = own[:5] - own[5:]
    assert row["difference"] == pytest.approx(each.mean()) and row["sd"] == pytest.approx(each.std(ddof=1))
    assert row["per_seed"] == " ".join(f"{value:.2f}" for value in each) and row["seeds"] == 5
    assert (row["seed_low"], row["seed_high"]) == pytest.approx(verdicts.t_interval(each, 0.05))
    draws = []
    for counts in image_counts(80, 400, seed=0):  # by a loop over the same resamples
        for times in counts[:, results.expressions["image_id"]]:
            value = 100 * (times @ inside) / (times @ union)
            draws.append((value[:5] - value[5:]).mean())
    assert (row["image_low"], row["image_high"]) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert row["verdict"] == "helps" and row["expressions"] == 600 and row["images"] == 80


def test_with_one_seed_the_images_say_what_compare_says_and_nothing_is_claimed():
    results = made_up(study(), {"a": 0.2}, num_seeds=1)
    (inside, union), ids = results.scores["oIoU"], results.expressions[["sent_id", "image_id"]]
    tables = [ids.assign(I=inside[:, i], U=union[:, i], iou=inside[:, i] / union[:, i]) for i in (0, 1)]
    expected = compare(*tables).set_index("metric")
    found = verdicts.effect_table(results).set_index("score")
    for score in ("oIoU", "mIoU"):
        row = found.loc[score]
        assert tuple(row[["difference", "image_low", "image_high"]]) == pytest.approx(
            tuple(expected.loc[score, ["difference", "low", "high"]])
        )
        assert row["verdict"] == "no claim: 1 seed" and np.isnan([row["sd"], row["seed_low"]]).all()


def test_a_factorials_effects_are_found_and_a_missing_one_is_not_made_up():
    made = study(variants={name: {} for name in FOUR}, factorial=FOUR, comparisons=())
    results = made_up(made, {"a": 0.08, "b": 0.0, "ab": 0.18}, spread=0.004)  # B brings nothing, but 10 points beside A
    rows = verdicts.effect_table(results, num_draws=500).set_index(["score", "contrast"])
    found = rows.loc["mIoU"]
    assert found["difference"].to_dict() == pytest.approx({"A": 13, "B": 5, "A × B": 10}, abs=1.5)
    assert (found["verdict"] == "helps").all()
    none = verdicts.effect_table(made_up(made, {"a": 0.08, "ab": 0.08}, spread=0.01), num_draws=500)
    none = none.set_index(["score", "contrast"])["verdict"].loc["mIoU"]
    assert none["A"] == "helps" and none["A × B"].startswith("no difference shown (detectable alone: ")


def test_a_seed_counts_only_where_all_of_a_contrasts_runs_are_there():
    made = study(variants={"a": {}, "b": {}, "c": {}}, comparisons=(("A", "a", "b"), ("C", "c", "b"), ("D", "c", "a")))
    whole = made_up(made, {"a": 0.1})
    kept = [i for i, pair in enumerate(whole.pairs) if pair not in (("a", 3), ("b", 0)) and pair[0] != "c"]
    scores = {name: (top[:, kept], low[:, kept]) for name, (top, low) in whole.scores.items()}
    results = replace(whole, pairs=[whole.pairs[i] for i in kept], scores=scores, facts=[FACTS] * len(kept))
    rows = verdicts.effect_table(results, num_draws=50).set_index(["score", "contrast"]).loc["oIoU"]
    inside, union = whole.scores["oIoU"]
    own = dict(zip(whole.pairs, 100 * inside.sum(0) / union.sum(0)))
    assert rows.loc["A", "seeds"] == 3
    assert rows.loc["A", "difference"] == pytest.approx(np.mean([own["a", s] - own["b", s] for s in (1, 2, 4)]))
    assert rows.loc["C", "seeds"] == 0 and rows.loc["C", "verdict"] == "no claim: 0 seeds"
    table = verdicts.variant_table(results).set_index("variant")
    assert table["n"].to_dict() == {"a": 4, "b": 4, "c": 0} and np.isnan(table.loc["c", "val oIoU"])
    short = short_variants(verdicts.variant_table(results), made)
    assert short["seeds"].tolist() == ["4 of 5", "4 of 5", "0 of 5"] and short["val oIoU"].iloc[2] == "–"


def test_scores_stand_by_seed_and_variant_and_a_missing_run_is_no_number():
    made = study(splits=("val", "testA"))
    whole = made_up(made, {"a": 0.1}, num_seeds=3)
    kept = [i for i, pair in enumerate(whole.pairs) if pair != ("b", 1)]
    scores = {name: (top[:, kept], low[:, kept]) for name, (top, low) in whole.scores.items()}
    table = score_table(replace(whole, pairs=[whole.pairs[i] for i in kept], scores=scores))
    rows = (whole.expressions["split"] == "val").to_numpy()
    inside, union = (part[rows, 2].sum() for part in whole.scores["oIoU"])
    assert table.loc[2, "a"] == pytest.approx(100 * inside / union) and np.isnan(table.loc[1, "b"])
    assert list(table) == ["a", "b"] and table.index.tolist() == [0, 1, 2] and table.notna().sum().sum() == 5


def test_a_parts_simple_effects_average_to_its_main_effect_and_their_spread_is_the_interaction():
    made = study(variants={name: {} for name in FOUR}, factorial=FOUR, comparisons=())
    results = made_up(made, {"a": 0.08, "ab": 0.18})
    rows = verdicts.effect_table(results, num_draws=0).set_index(["score", "contrast"]).loc["oIoU", "difference"]
    table = verdicts.simple_effects(results)
    means = table.groupby(["part", "beside"])["difference"].mean()
    assert table["beside"].tolist() == ["alone"] * 5 + ["B"] * 5 + ["alone"] * 5 + ["A"] * 5
    assert means["A"].mean() == pytest.approx(rows["A"]) and means["B"].mean() == pytest.approx(rows["B"])
    for part, other in (("A", "B"), ("B", "A")):
        assert means[part, other] - means[part, "alone"] == pytest.approx(rows["A × B"])
    figure = beside_others(table, "toy")
    assert [axis.get_title() for axis in figure.axes] == ["A beside", "B beside"] and pixels(figure).std() > 0
    bars = [line[0, 1] for line in figure.axes[0].collections[-1].get_segments()]
    assert bars == pytest.approx([means["A", "alone"], means["A", "B"]])


def test_runs_scored_by_hand_are_analysed_as_a_studys_own():
    whole = made_up(study(), {"a": 0.1})
    inside, union = whole.scores["oIoU"]
    tables = {}
    for i, pair in enumerate(whole.pairs):
        table = whole.expressions.assign(I=inside[:, i], U=union[:, i]).drop(columns="split")
        tables[pair] = table.sample(frac=1, random_state=i)  # in another order each
    found = verdicts.effect_table(side_by_side(study(), tables), num_draws=200)
    expected = verdicts.effect_table(whole, num_draws=200)
    numbers = ["seeds", "difference", "sd", "seed_low", "seed_high", "expressions", "images"]
    pd.testing.assert_frame_equal(found[numbers], expected[numbers])
    assert found["verdict"].tolist() == expected["verdict"].tolist()
    with pytest.raises(ValueError, match=r"b-4 \(against a-0\) lacks 1 expressions"):
        side_by_side(study(), tables | {("b", 4): tables["b", 4][1:]})


def test_variants_have_mean_and_spread_over_seeds():
    made = study(splits=("val", "testA"), errors=("part",))
    results = made_up(made, {"a": 0.1})
    table = verdicts.variant_table(results).set_index("variant")
    rows = (results.expressions["split"] == "testA").to_numpy()
    values = 100 * results.scores["part errors"][0][rows][:, 5:].mean(axis=0)
    assert table.loc["b", "testA part errors"] == pytest.approx(values.mean())
    assert table.loc["b", "testA part errors sd"] == pytest.approx(values.std(ddof=1))
    assert table.loc["a", ["GFLOP inference", "GFLOP training"]].tolist() == [0.4, 0.9]
    assert table.loc["a", "code"] == "0.1.0 (abc)"


def test_hours_on_different_hardware_are_not_put_together():
    results = made_up(study(), {}, num_seeds=3)
    a_0, a_1, a_2, b_0, b_1, b_2 = (dict(FACTS) for _ in results.facts)
    a_0["hours"], a_1["hours"], a_2 = 0.2, 0.4, a_2 | {"hours": 0.01, "hardware": "a GPU"}
    results = replace(results, facts=[a_0, a_1, a_2, b_0, b_1, b_2])
    table = verdicts.variant_table(results).set_index("variant")
    assert table["hours on a laptop"].tolist() == pytest.approx([0.3, 0.1])
    assert table.loc["a", "hours on a GPU"] == 0.01 and np.isnan(table.loc["b", "hours on a GPU"])
    short = short_variants(table.reset_index(), study())
    assert short["hours"].tolist() == ["0.01 on #1, 0.3 on #2", "0.1 on #2"]
    alone = verdicts.variant_table(made_up(study(), {}))
    assert short_variants(alone, study())["hours"].tolist() == ["0.1", "0.1"]


def test_notes_name_the_seeds_whose_differences_mix_machines_or_versions():
    made = study(variants={"a": {}, "b": {}, "c": {}})  # c is in no comparison
    results = made_up(made, {}, num_seeds=3)

    def said(**changes):
        """notes, with other facts of some runs: c_1={"torch": ...}."""
        facts = [dict(FACTS) | changes.get(f"{variant}_{seed}", {}) for variant, seed in results.pairs]
        return [note for note in notes(replace(results, facts=facts)) if "machines" in note]

    assert said() == []
    machines = "#1 a GPU, torch 2.14; #2 a laptop, torch 2.14"
    assert said(a_1={"hardware": "a GPU"})[0].endswith(f"{machines}. Differences that mix them: seed 1")
    other = {"torch": "2.11"}
    assert "#1 a laptop, torch 2.11, 2.14. Differences that mix them: seed 0, seed 2" in said(a_0=other, b_2=other)[0]
    assert "Differences that mix them: none" in said(a_0=other, b_0=other, c_1=other)[0]


def test_a_note_counts_the_runs_that_do_not_say_in_which_precision_they_may_be():
    results = made_up(study(), {}, num_seeds=2)
    made_on = [f"x86_64, 2 cores, 2 threads{end}" for end in ("", ", bfloat16", ", no bfloat16", ", NVIDIA H100")]

    def said(hardware):
        facts = [FACTS | {"hardware": one} for one in hardware]
        return [note for note in notes(replace(results, facts=facts)) if "bfloat16, so" in note]

    assert said([made_on[1]] * 4) == []
    assert said(made_on)[0].startswith("1 of 4 runs do not") and said(made_on)[0].endswith("a-0")
    assert said([made_on[0]] * 4)[0].endswith("trained in it: a-0, a-1, b-0, b-1")


def test_groups_are_the_differences_of_their_rows():
    results = made_up(study(errors=("part",)), {"a": 0.1})
    table = verdicts.group_table(results, num_draws=300).set_index(["tag", "value", "score"])
    rows = (results.expressions["kind"] == "y").to_numpy()
    iou = 100 * results.scores["mIoU"][0][rows]
    each = iou[:, :5].mean(0) - iou[:, 5:].mean(0)
    found = table.loc[("kind", "y", "mIoU")]
    assert found["difference"] == pytest.approx(each.mean()) and found["expressions"] == 200
    assert (found["seed_low"], found["seed_high"]) == pytest.approx(verdicts.t_interval(each, 0.05))
    assert found["image_low"] < found["difference"] < found["image_high"] and "verdict" not in table
    assert set(table.index.get_level_values("score")) == {"mIoU", "part errors"}, "oIoU hangs on few objects"


def test_groups_as_printed_mark_where_both_intervals_agree():
    row = {"split": "val", "tag": "kind", "score": "mIoU", "contrast": "A", "expressions": 9, "seeds": 5,
           "seed_low": 0.5, "seed_high": 3.0, "image_low": 0.1, "image_high": 2.0, "difference": 1.5}  # fmt: skip
    rows = [
        row | {"value": "x"}, row | {"value": "y", "image_low": -0.1}, row | {"value": "z", "split": "testA"},
        row | {"value": "z", "tag": "hops"}, row | {"value": "z", "score": "part errors"},
        row | {"value": "x", "contrast": "B", "difference": -1.54, "seed_low": -3.0, "seed_high": -0.2},
        row | {"value": "y", "contrast": "B", "difference": -2.0, "seed_low": -4.0, "seed_high": -0.2,
               "image_low": -3.0, "image_high": -0.5},
    ]  # fmt: skip
    table = short_groups(pd.DataFrame(rows), "kind")
    assert table.to_dict("list") == {
        "value": ["x", "y"], "expressions": [9, 9], "A": ["+1.5 *", "+1.5  "], "B": ["-1.5  ", "-2.0 *"],
    }  # fmt: skip


def test_errors_are_counted_by_distractors():
    results = made_up(study(errors=("part",), splits=("val", "testA")), {"a": 0.1})
    rows = results.expressions.assign(distractors=np.arange(600) // 2 % 3)
    table = verdicts.error_table(replace(results, expressions=rows))
    assert table["expressions"].sum() == 2 * 300 and list(table["variant"]) == ["a"] * 3 + ["b"] * 3
    chosen = ((rows["split"] == "val") & (rows["distractors"] == 2)).to_numpy()
    shares = 100 * results.scores["part errors"][0][chosen][:, 5:].mean(axis=0)
    assert table["part errors"].iloc[5] == pytest.approx(shares.mean())
    assert table["part errors sd"].iloc[5] == pytest.approx(shares.std(ddof=1))
    assert short_errors(table)["part errors"].iloc[5] == f"{shares.mean():.1f} ± {shares.std(ddof=1):.1f}"
    assert verdicts.error_table(made_up(study(), {})).empty


def test_files_hold_what_is_printed(tmp_path, capsys):
    made = study(claim="50 % & more_of it", splits=("val", "testA"))
    files = report_study(made_up(made, {"a": 0.1}, num_seeds=2), "magnet ablate toy", tmp_path / "t", tmp_path / "f")
    out = capsys.readouterr().out
    assert "1 of 5" not in out and "2 of 5" in out and "Note: 6 of 10 runs are missing" in out
    ends = (".csv", "_effects.csv", "_groups.csv", ".md", ".tex", ".png")
    assert [path.name for path in files] == [f"study_toy{end}" for end in ends]
    assert all(path.stat().st_size > 100 for path in files)
    assert (pd.read_csv(files[1])["command"] == "magnet ablate toy").all()


def test_markdown_and_latex_hold_every_cell():
    table = pd.DataFrame({"variant": ["a_b"], "val oIoU": ["41.0 ± 0.3"], "contrast": ["A × B − 50 %"]})
    text = markdown(["toy: c."], {"Effects": table}, "magnet ablate toy")
    assert (
        "| a_b | 41.0 ± 0.3 | A × B − 50 % |" in text
        and "| --- | --- | --- |" in text
        and "`magnet ablate toy`" in text
    )
    text = latex(["two\nlines"], {"Effects": table}, "magnet ablate toy")
    assert r"a\_b & 41.0 $\pm$ 0.3 & A $\times$ B $-$ 50 \% \\" in text and "% two\n% lines" in text


def test_the_forest_shows_every_effect_both_intervals_and_each_seed():
    made = study(splits=("val", "testA"), variants={name: {} for name in FOUR}, factorial=FOUR, comparisons=())
    effects = verdicts.effect_table(made_up(made, {"a": 0.1, "ab": 0.1}), num_draws=100)
    figure = effect_forest(effects[effects["score"] == "oIoU"], "toy")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "A (5 seeds)", "B (5 seeds)", "A × B (5 seeds)",
    ]  # fmt: skip
    assert [axis.get_title() for axis in figure.axes] == ["val, n = 300 in 40 images", "testA, n = 300 in 40 images"]
    assert "points" in figure.axes[0].get_xlabel()
    dots = figure.axes[1].collections[-1].get_offsets()
    assert len(dots) == 15 and pixels(figure).std() > 0
    assert [text.get_text() for text in figure.axes[0].texts] == ["helps"]
    assert list(short_effects(effects, made)["score"].unique()) == ["oIoU", "mIoU"]


def test_the_forest_shows_early_verdicts_and_differences_without_spread():
    effects = verdicts.effect_table(made_up(study(), {"a": 0.3}, num_seeds=3), num_draws=100).iloc[:1]
    assert [text.get_text() for text in effect_forest(effects, "toy").axes[0].texts] == ["helps so far (3 of 5 seeds)"]
    equal = effects.assign(seed_low=np.nan, seed_high=np.nan, detectable=np.nan, verdict="no claim")
    axis = effect_forest(equal, "toy").axes[0]
    middles = [line.get_xdata()[0] for line in axis.lines if line.get_marker() in ("o", "s")]
    assert middles == pytest.approx([effects["difference"].iloc[0]] * 2)
    whiskers = [len(one.get_segments()[0]) > 1 for one in axis.collections if isinstance(one, LineCollection)]
    assert whiskers == [False, True], "over images alone"


def test_an_interval_beside_which_nothing_could_be_seen_is_cut_and_says_so():
    made = study(splits=("val",), variants={name: {} for name in FOUR}, factorial=FOUR, comparisons=())
    effects = verdicts.effect_table(made_up(made, {"a": 0.1}), num_draws=100)
    effects = effects[effects["score"] == "oIoU"]
    whole = effect_forest(effects, "toy").axes[0]
    low, high = whole.get_xlim()
    assert low < effects["seed_low"].min() and high > effects["seed_high"].max()
    wide = effects.assign(seed_low=[-900, *effects["seed_low"][1:]], seed_high=[900, *effects["seed_high"][1:]])
    cut = effect_forest(wide, "toy").axes[0]
    low, high = cut.get_xlim()
    each = [abs(float(value)) for values in effects["per_seed"] for value in values.split()]
    assert -200 < low < -max(each) and max(each) < high < 200
    arrows = [dots.get_offsets().tolist() for dots in cut.collections[-2:]]
    assert arrows == [[[low, -0.14]], [[high, -0.14]]]


def test_learning_curves_hold_what_all_runs_share():
    log = [{"step": step, "loss": 9.0, "raw": {"a": 1.0 / step, "b": 1.0, "own": 5.0}} for step in (1, 2, 3)]
    log.append({"step": 3, "validation": {"mIoU": 40.0}})
    figure = learning_curves({"one": log, "other": log[1:]}, ["a", "b"], window=2)
    losses, scores = figure.axes
    assert losses.lines[0].get_ydata() == pytest.approx([2, 1.75, 1 + 5 / 12])
    assert losses.lines[1].get_xdata().tolist() == [2, 3] and scores.lines[1].get_ydata().tolist() == [40]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "other"] and pixels(figure).std() > 0


def test_a_pretended_miss_is_of_one_kind():
    results = made_up(study(errors=("part", "empty")), {})
    part, empty = (results.scores[f"{kind} errors"][0] for kind in ("part", "empty"))
    assert (part * empty).sum() == 0 and (part + empty == (results.scores["mIoU"][0] < 0.4)).all()


def test_a_study_that_cannot_be_read_is_stood_in_for_and_says_so(tmp_path, capsys):
    made = studies.components()
    results = read_or_pretend(made, ASSETS, tmp_path)
    said = capsys.readouterr().out
    assert "magnet ablate components" in said and "MADE-UP" in said and results.study.name == "components_made_up"
    effects = verdicts.effect_table(results, num_draws=100)
    assert effects["contrast"].nunique() == 8 and set(effects["split"]) == set(made.splits)
    assert (effects["seeds"] == 5).all() and len(verdicts.variant_table(results)) == 9
