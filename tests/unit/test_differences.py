"""Two models side by side: who is right where, and paired differences by tag against `magnet.compare`."""

import numpy as np
import pytest
from conftest import ASSETS

import magnet
from magnet.data import read_refer, select_split
from magnet.explore.differences import differences_by_tag, outcomes
from magnet.refshapes.baselines import baseline_table


@pytest.fixture(scope="module")
def pair():
    expressions = select_split(read_refer(ASSETS), "val")
    return baseline_table("head_phrase", expressions), baseline_table("largest", expressions)


def test_outcomes_say_who_is_right_whatever_the_order(pair):
    a, b = pair
    found = outcomes(a, b)
    right = {True: {True: "both", False: "a alone"}, False: {True: "b alone", False: "neither"}}
    expected = [right[x][y] for x, y in zip((a["iou"] >= 0.5).tolist(), (b["iou"] >= 0.5).tolist())]
    assert found.tolist() == expected and len(set(expected)) == 4
    assert outcomes(a, b.sample(frac=1, random_state=0)).tolist() == expected


def test_differences_are_those_of_compare_on_the_tagged_rows(pair):
    a, b = pair
    found = differences_by_tag(a, b)
    everything = magnet.compare(a, b).set_index("metric").loc["mIoU"]
    assert found.index[0] == "all"
    assert found.loc["all", ["value", "low", "high"]].to_numpy(float) == pytest.approx(
        everything[["difference", "low", "high"]].to_numpy(float)
    )
    tagged = a["has_relation"].to_numpy(bool)
    part = magnet.compare(a[tagged], b[tagged], num_draws=0).set_index("metric").loc["mIoU"]
    assert found.loc["relation", "value"] == pytest.approx(part["difference"])
    assert found.loc["relation", "n"] == tagged.sum()
    assert (np.diff(found["value"].iloc[1:]) >= 0).all()


def test_other_expressions_or_another_protocol_are_refused(pair):
    a, b = pair
    with pytest.raises(ValueError, match="lacks"):
        outcomes(a, b.iloc[1:])
    other = b.copy()
    other.attrs = {"protocol": "paper"}
    with pytest.raises(ValueError, match="was scored under"):
        differences_by_tag(a, other)
