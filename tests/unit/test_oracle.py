"""The oracle ladder: hand-made answers, and RefShapes against bool masks and the attributes that its file has."""

import numpy as np
import pandas as pd
import pytest
from conftest import ASSETS
from test_errors import BOXES, SIDE, Kitchen, boxes

import magnet
from magnet.data import read_refer, select_split
from magnet.data.instances import read_instances
from magnet.explore.oracle import oracle_ladder, oracle_tables
from magnet.metrics import rle_decode
from magnet.refshapes.baselines import baseline_table


def test_the_best_instance_is_the_one_that_the_mask_overlaps_most(tmp_path):
    kitchen = Kitchen(tmp_path)
    cup, other = BOXES["cup"], BOXES["other cup"]
    kitchen.say(1, boxes((10, 10, 30, 14)))  # a fifth of the cup
    kitchen.say(1, boxes(other))
    kitchen.say(1, boxes((80, 5, 90, 9)))  # on nothing
    kitchen.say(1, boxes(cup, other, (0, 0, 9, 9)))  # a tie: the truth stands first
    results, expressions = kitchen.answered()
    best = oracle_tables(results, expressions)["best instance"]
    assert best["sent_id"].tolist() == results["sent_id"].tolist() == [3, 2, 1, 0]
    assert best["iou"].tolist() == [1, 0, 0, 1] and best["I"].tolist() == [400, 0, 0, 400]
    assert best["U"].tolist() == [400, 400, 800, 400]


def test_a_category_of_one_is_found_by_its_noun_and_a_crowd_is_no_object(tmp_path):
    kitchen = Kitchen(tmp_path)
    for _ in range(40):
        kitchen.say(1, boxes())  # a cup: two of them, and a crowd of cups that is larger
    kitchen.say(3, boxes())  # the plate, which has a spoon on it
    tables = oracle_tables(*kitchen.answered())
    for rung in ("category", "largest"):
        plate, *cups = tables[rung]["iou"].tolist()
        assert plate == 1 and set(cups) <= {0, 1}
    assert 8 < tables["category"]["iou"].iloc[1:].sum() < 32  # drawn anew for each sentence


def test_the_centre_is_a_quarter_of_the_picture(tmp_path):
    kitchen = Kitchen(tmp_path)
    kitchen.say(1, boxes())
    centre = oracle_tables(*kitchen.answered())["centre"]
    expected = np.zeros((SIDE, SIDE), bool)
    expected[25:75, 25:75] = True
    np.testing.assert_array_equal(rle_decode(centre["rle"].iloc[0], SIDE, SIDE), expected)
    assert centre["I"].tolist() == [25] and centre["U"].tolist() == [400 + 2500 - 25]


def test_several_targets_are_one_truth_and_none_is_nothing(tmp_path):
    kitchen = Kitchen(tmp_path)
    kitchen.say([1, 2], boxes(BOXES["cup"]))
    kitchen.say([-1], boxes(BOXES["cup"]))  # nothing is meant: no category to guess from
    tables = oracle_tables(*kitchen.answered(protocol="gres"))
    assert tables["best instance"]["I"].tolist() == [0, 800] and tables["best instance"]["U"].tolist() == [400, 800]
    assert tables["largest"]["U"].tolist() == [0, 800] and tables["largest"]["iou"].tolist() == [1, 1]


def test_what_the_expressions_lack_is_named(tmp_path):
    kitchen = Kitchen(tmp_path)
    kitchen.say(1, boxes())
    results, expressions = kitchen.answered()
    with pytest.raises(ValueError, match=r"lack 1 sent_ids of the results, first \[0\]"):
        oracle_ladder(results, expressions.iloc[:0])


@pytest.fixture(scope="module")
def shapes() -> tuple[pd.DataFrame, pd.DataFrame]:
    expressions = select_split(read_refer(ASSETS, cache=False), "val")
    return baseline_table("head_phrase", expressions), expressions


def test_rungs_of_refshapes_are_what_bool_masks_say(shapes):
    results, expressions = shapes
    tables, things = oracle_tables(results, expressions), read_instances(expressions)
    for number, row in enumerate(expressions.itertuples()):
        truth = rle_decode(row.rle, 96, 96)
        category = next(thing["category_id"] for thing in things[row.image_id] if thing["id"] == row.ann_id)
        same = [thing for thing in things[row.image_id] if thing["category_id"] == category]
        masks = [rle_decode(thing["segmentation"]["counts"], 96, 96) for thing in same]
        guess = rle_decode(tables["category"]["rle"].iloc[number], 96, 96)
        assert any((guess == mask).all() for mask in masks)
        largest = rle_decode(tables["largest"]["rle"].iloc[number], 96, 96)
        assert largest.sum() == max(mask.sum() for mask in masks)
        for table in tables.values():
            mask = rle_decode(table["rle"].iloc[number], 96, 96)
            assert table["I"].iloc[number] == (mask & truth).sum() and table["U"].iloc[number] == (mask | truth).sum()


def test_the_ladder_has_intervals_and_leaves_the_results_alone(shapes):
    results, expressions = shapes
    own = baseline_table("random", expressions)
    ladder = oracle_ladder(results, expressions, no_text=own, num_draws=200)
    assert ladder.index.tolist() == ["centre", "no text", "category", "largest", "network", "best instance"]
    assert (ladder["mIoU_low"] <= ladder["mIoU"]).all() and (ladder["n"] == len(results)).all()
    assert ladder.loc["network", "oIoU"] == magnet.summarize(results, num_draws=0)["oIoU"]
    assert ladder.loc["best instance", "mIoU"] >= ladder.loc["network", "mIoU"]  # its guesses are objects already
    assert ladder.loc["no text", "oIoU"] == magnet.summarize(own, num_draws=0)["oIoU"]
    assert "no text" not in oracle_tables(results, expressions)  # RefShapes mini has other sentences than small
