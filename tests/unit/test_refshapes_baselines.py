"""Baselines: guesses against brute-force masks, the oracle against its bound, trained ones read or refused clearly."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import magnet
from magnet.data import read_refer, select_split
from magnet.metrics import rle_decode, rle_encode
from magnet.refshapes import baselines
from magnet.refshapes.baselines import GUESSES, baseline_table, picked_right

ASSETS = Path(magnet.__file__).parent / "assets"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return read_refer(ASSETS, cache=False)


@pytest.mark.parametrize("name", GUESSES)
def test_guesses_are_scored_as_their_masks_say(name, table):
    results = baseline_table(name, table)
    assert results["sent_id"].tolist() == table["sent_id"].tolist() and "kind" in results
    for guess, truth, row in zip(results["rle"], table["rle"], results.itertuples()):
        predicted, meant = rle_decode(guess, 96, 96), rle_decode(truth, 96, 96)
        assert ((predicted & meant).sum(), (predicted | meant).sum()) == (row.I, row.U)
        assert row.iou == row.I / row.U and row.picked_right == (row.iou == 1)


def test_a_guess_depends_on_the_expression_alone(table):
    whole, part = baseline_table("random", table), baseline_table("random", select_split(table, "val"))
    assert whole.set_index("sent_id").loc[part["sent_id"], "rle"].tolist() == part["rle"].tolist()


def test_head_phrase_knows_attributes_and_guesses_the_rest(table):
    results = baseline_table("head_phrase", table)
    assert results.loc[results["kind"] == "attribute", "picked_right"].all()
    others = results[results["kind"] != "attribute"]
    expected = (1 / (1 + others["distractors"])).mean()
    assert abs(others["picked_right"].mean() - expected) < 0.12 and expected <= 0.5
    assert (1 / (1 + others.loc[others["split"] == "testB", "distractors"]) <= 0.5).all()  # at most half, by chance


def test_the_largest_is_the_largest(table):
    results = baseline_table("largest", table)
    shown = results["rle"].map(lambda rle: rle_decode(rle, 96, 96).sum())
    assert (shown >= table["area"]).all() and 0 < results["picked_right"].mean() < 0.5


def test_a_prediction_picks_the_instance_it_overlaps_most(table):
    truth = table.head(20)
    grown = [rle_encode(_grown(rle_decode(rle, 96, 96))) for rle in truth["rle"]]
    assert picked_right(pd.DataFrame({"rle": grown}), truth).all()
    nothing = rle_encode(np.zeros((96, 96), bool))
    assert not picked_right(pd.DataFrame({"rle": [nothing] * 20}), truth).any()


def _grown(mask: np.ndarray) -> np.ndarray:
    return mask | np.roll(mask, 1, 0) | np.roll(mask, 1, 1)


def test_trained_baselines_come_from_their_files(table, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "RESULTS", tmp_path)
    truth = select_split(table, "testB")
    with pytest.raises(FileNotFoundError, match=r"no_text-testB.parquet.*data.words='none'"):
        baseline_table("no_text", truth)
    made = baseline_table("random", truth)
    made.sample(frac=1, random_state=0).to_parquet(tmp_path / "bag_of_words-testB.parquet")
    pd.testing.assert_frame_equal(baseline_table("bag_of_words", truth), made)
    with pytest.raises(ValueError, match="sent_id 99999"):
        baseline_table("bag_of_words", truth.assign(sent_id=range(99999, 99999 + len(truth))))


def test_what_cannot_be_a_baseline_is_refused(table):
    with pytest.raises(ValueError, match=r"'median'.*head_phrase"):
        baseline_table("median", table)
    with pytest.raises(ValueError, match="no programs"):
        baseline_table("random", table.drop(columns="program"))


def test_word_order_is_needed():
    """The promise of the generator, on the committed scores: relations cannot be read off a bag of words."""
    scores = pd.read_csv(Path(__file__).parents[2] / "results" / "tables" / "baselines.csv")
    picked = scores[scores["split"] == "testB"].set_index("baseline")["picked_right"]
    assert picked["bag_of_words"] <= picked["head_phrase"] + 5
