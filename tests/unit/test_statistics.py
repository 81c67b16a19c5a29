import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from magnet.metrics import PROTOCOLS
from magnet.statistics import bootstrap, compare, image_counts, summarize


def results(num_rows=400, num_images=60, seed=0, protocol="original"):
    generator = np.random.default_rng(seed)
    union = generator.integers(10, 5000, num_rows)
    intersection = (union * generator.beta(2, 1, num_rows)).astype(int)
    table = pd.DataFrame({"sent_id": np.arange(num_rows) + 7, "I": intersection, "U": union, "area": union})
    table["iou"] = PROTOCOLS[protocol].iou(intersection, union)
    table["image_id"] = np.random.default_rng(99).integers(num_images, size=num_rows)
    table["kind"] = np.where(table["sent_id"] % 3 == 0, "attribute", "relation")
    table.attrs["protocol"] = protocol
    return table


def test_the_values_are_the_definitions():
    table = results()
    summary = summarize(table, num_draws=10)
    assert summary["oIoU"] == pytest.approx(100 * table["I"].sum() / table["U"].sum())
    assert summary["mIoU"] == pytest.approx(100 * (table["I"] / table["U"]).mean())
    assert summary["P@0.7"] == pytest.approx(100 * (table["iou"] >= 0.7).mean())
    assert summary["n"] == 400
    assert [key for key in summary if key[0] == "P" and key[-1].isdigit()] == [f"P@0.{x}" for x in range(5, 10)]


def test_draws_equal_a_loop_over_the_same_images():
    table = results(num_rows=80, num_images=12)
    images = np.unique(table["image_id"])
    terms = [(table["I"].to_numpy(float), table["U"].to_numpy(float)), (table["iou"].to_numpy(), np.ones(80))]
    draws = bootstrap(table["image_id"], terms, num_draws=30, seed=3)
    counts = np.concatenate(list(image_counts(len(images), 30, seed=3)))
    for draw, times in zip(draws, counts.astype(int)):
        parts = [table[table["image_id"] == image] for image, n in zip(images, times) for _ in range(n)]
        drawn = pd.concat(parts)
        expected = [100 * drawn["I"].sum() / drawn["U"].sum(), 100 * drawn["iou"].mean()]
        np.testing.assert_allclose(draw, expected)


def test_every_image_is_drawn_equally_often():
    counts = np.concatenate(list(image_counts(7, 1300, seed=1)))  # more than two chunks, the last one short
    assert counts.shape == (1300, 7) and (counts.sum(axis=1) == 7).all()
    assert stats.chisquare(counts.sum(axis=0)).pvalue > 1e-3
    assert counts.var(axis=0) == pytest.approx(np.full(7, 6 / 7), rel=0.15)  # binomial(7, 1/7)


def test_intervals_agree_with_scipy():
    table = results()
    by_image = table.groupby("image_id")[["I", "U"]].sum()
    expected = stats.bootstrap(
        (by_image["I"], by_image["U"]),
        lambda i, u, axis: 100 * i.sum(axis) / u.sum(axis),
        paired=True, vectorized=True, n_resamples=10_000, method="percentile", rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    summary = summarize(table)
    assert (summary["oIoU_low"], summary["oIoU_high"]) == pytest.approx(tuple(expected), abs=0.15)


def test_intervals_agree_with_the_normal_approximation():
    table = results(num_rows=600).assign(image_id=np.arange(600))  # one expression an image: a plain mean
    summary = summarize(table)
    half = 1.96 * 100 * table["iou"].std() / np.sqrt(600)
    assert summary["mIoU_high"] - summary["mIoU"] == pytest.approx(half, rel=0.06)
    assert summary["mIoU"] - summary["mIoU_low"] == pytest.approx(half, rel=0.06)


def test_images_are_resampled_not_expressions():
    table = results(num_rows=100).assign(image_id=np.arange(100))
    repeated = pd.concat([table] * 9, ignore_index=True)  # nine copies of each expression tell nothing new
    repeated.attrs = table.attrs
    once, nine = summarize(table), summarize(repeated)
    assert (nine["mIoU_low"], nine["mIoU_high"]) == pytest.approx((once["mIoU_low"], once["mIoU_high"]))


def test_order_of_rows_does_not_matter():
    table = results()
    shuffled = table.sample(frac=1, random_state=1)
    shuffled.attrs = table.attrs
    assert summarize(shuffled) == pytest.approx(summarize(table))


def test_the_seed_decides():
    table = results()
    assert summarize(table, num_draws=500) == summarize(table, num_draws=500)
    assert summarize(table, num_draws=500, seed=1) != summarize(table, num_draws=500)


def test_groups_are_summaries_of_their_rows():
    table = results()
    grouped = summarize(table, groups="kind", num_draws=300)
    assert list(grouped.index) == ["attribute", "relation"] and grouped.index.name == "kind"
    for kind, row in grouped.iterrows():
        assert row.to_dict() == pytest.approx(summarize(table[table["kind"] == kind], num_draws=300))
    assert grouped["n"].sum() == len(table)


def test_groups_keep_the_protocol_and_can_be_several():
    table = results(protocol="cris").assign(I=1, U=2, iou=0.5, hops=1)
    assert (summarize(table, groups="kind", num_draws=10)["P@0.5"] == 0).all()
    assert summarize(table, groups=["kind", "hops"], num_draws=10).index.names == ["kind", "hops"]


def test_rows_without_a_group_are_a_group():
    table = results()
    table.loc[:9, "kind"] = None
    grouped = summarize(table, groups="kind", num_draws=10)
    assert len(grouped) == 3 and grouped["n"].sum() == 400


def test_no_draws_give_no_interval_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for table in (results(), results().assign(image_id=1)):
            summary = summarize(table, num_draws=0)
            assert summary["oIoU"] > 0 and np.isnan([summary["oIoU_low"], summary["oIoU_high"]]).all()


def test_one_image_has_no_interval():
    with pytest.warns(UserWarning, match="one image only"):
        summary = summarize(results().assign(image_id=4))
    assert np.isnan([summary["oIoU_low"], summary["mIoU_high"]]).all() and summary["oIoU"] > 0


def test_gres_without_a_missing_target_has_no_n_acc():
    summary = summarize(results(protocol="gres"), num_draws=50)
    assert np.isnan([summary["N-acc"], summary["N-acc_low"]]).all() and summary["T-acc"] == 100


def test_compare_is_paired_whatever_the_order():
    a = results(seed=0)
    b = a.assign(I=(a["I"] * 0.9).astype(int))
    b["iou"] = b["I"] / b["U"]
    shuffled = b.sample(frac=1, random_state=2)
    shuffled.attrs = a.attrs
    found = compare(a, shuffled).set_index("metric")
    assert list(found.columns) == ["a", "b", "difference", "low", "high", "n"]
    assert found.loc["mIoU", "a"] == pytest.approx(summarize(a, num_draws=1)["mIoU"])
    assert found.loc["mIoU", "difference"] == pytest.approx(100 * (a["iou"] - b["iou"]).mean())
    differences = a.assign(iou=a["iou"] - b["iou"])  # the second path: the interval of one column of differences
    expected = summarize(differences)
    bounds = expected["mIoU_low"], expected["mIoU_high"]
    assert tuple(found.loc["mIoU", ["low", "high"]]) == pytest.approx(bounds)
    assert found.loc["mIoU", "high"] - found.loc["mIoU", "low"] < 0.5 * (
        summarize(a)["mIoU_high"] - summarize(a)["mIoU_low"]
    )


def test_a_table_does_not_differ_from_itself():
    found = compare(results(), results(), num_draws=100)
    assert (found[["difference", "low", "high"]] == 0).all(axis=None) and (found["n"] == 400).all()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.iloc[2:], r"b lacks 2 expressions.*\[7, 8\]"),
        (lambda t: pd.concat([t, t.iloc[:1].assign(sent_id=1)]), r"a lacks 1 expressions.*\[1\]"),
        (lambda t: pd.concat([t, t.iloc[:1]]), r"b holds 1 expressions twice.*\[7\]"),
        (lambda t: t.assign(image_id=t["image_id"] + (t["sent_id"] == 9)), r"another image_id for sent_id \[9\]"),
        (lambda t: t.assign(area=t["area"] + (t["sent_id"] == 10)), r"another area for sent_id \[10\]"),
    ],
)
def test_tables_that_do_not_pair_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        compare(results(), change(results()), num_draws=10)


def test_tables_of_two_protocols_are_refused():
    with pytest.raises(ValueError, match="'original', b under 'cris'"):
        compare(results(), results(protocol="cris"), num_draws=10)


def test_unusable_tables_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        summarize(results().iloc[:0])
    with pytest.raises(ValueError, match="no column iou, colour; it has sent_id"):
        summarize(results().drop(columns="iou"), groups="colour")
