"""Which sentences go wrong more often: counted by hand, and what is left out."""

import numpy as np
import pandas as pd
import pytest

from magnet.explore.failure_plots import kinds_on_plane, share_bars
from magnet.explore.wrong import FEWEST, kinds_by, wrong_by_tag
from magnet.workbench.embeddings import on_plane


@pytest.fixture
def table() -> pd.DataFrame:
    """120 answers on 30 pictures; all of the 30 ordinals are wrong, and 9 of the others."""
    number = np.arange(120)
    ordinal = number % 4 == 0
    wrong = ordinal | (number % 10 == 7)
    return pd.DataFrame({
        "sent_id": number, "image_id": number % 30, "text": "the star", "iou": 1.0 - wrong, "has_ordinal": ordinal,
        "kind": np.where(ordinal, "ordinal", "other"), "has_negation": number < FEWEST - 1, "has_location": True,
        "error": np.where(wrong, "merged", "right"),
    })  # fmt: skip


def test_a_tag_against_the_rest_by_hand(table):
    found = wrong_by_tag(table, num_draws=500)
    rest = table[~table["has_ordinal"]]
    expected = 100 * (rest["error"] == "merged").mean()
    row = found.loc["ordinal"]
    assert (row["with_tag"], row["n"]) == (100, 30) and row["without"] == pytest.approx(expected)
    assert row["value"] == pytest.approx(100 - expected) and row["low"] < row["value"] < row["high"] <= 100
    assert found.loc["kind: other", "value"] == pytest.approx(-row["value"])
    assert found.index[0] == "ordinal" and found["value"].is_monotonic_decreasing


def test_what_nearly_all_or_hardly_any_have_is_left_out_and_the_same_sentences_come_once(table):
    assert set(wrong_by_tag(table, 10).index) == {"ordinal", "kind: other"}
    assert wrong_by_tag(table.head(30), 10).empty


def test_the_interval_resamples_pictures(table):
    """A tag that is the same in every picture leaves the share of wrong answers of each picture alone to vary."""
    same = table.assign(error=np.where(table["has_ordinal"], "merged", "right"), image_id=table["sent_id"] // 4)
    row = wrong_by_tag(same, 200).loc["ordinal"]
    assert (row["value"], row["low"], row["high"]) == (100, 100, 100)


def test_kinds_by_group_are_counted_in_their_group(table):
    groups = pd.cut(table["sent_id"], [-1, 39, 999, 10_000], labels=["first", "rest", "nobody"])
    found = kinds_by(table, groups, ["merged", "part"], num_draws=100)
    first = (table["error"] == "merged").head(40)
    merged = found["merged"]
    assert merged.index.tolist() == ["first", "rest"] and merged["n"].tolist() == [40, 80]
    assert merged.loc["first", "value"] == pytest.approx(100 * first.mean())
    assert merged.loc["first", "low"] < merged.loc["first", "value"] < merged.loc["first", "high"]
    assert (found["part"]["value"] == 0).all()


def test_figures_say_how_many(table):
    tables = {"val": pd.DataFrame({"value": [3, 9], "low": [1, 5], "high": [6, 12], "n": 504}, ["merged", "too_much"])}
    figure = share_bars(tables, "share (%)")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["merged", "too much"]
    assert figure.legends[0].get_texts()[0].get_text() == "val (n = 504)"
    more = {name: pd.DataFrame({"value": [1, 2], "low": 0, "high": 3, "n": [5, 7]}, ["a", "b"]) for name in "xy"}
    figure = share_bars(more, "share (%)")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a (n = 5)", "b (n = 7)"]
    points = np.random.default_rng(0).normal(size=(len(table), 3))
    plane = kinds_on_plane(on_plane(points), table["error"])
    said = [text.get_text() for text in plane.legends[0].get_texts()]
    assert said == [f"right (n = {(table.error == 'right').sum()})", f"merged (n = {(table.error == 'merged').sum()})"]
