"""Paraphrases: the same program in other words, and agreement of masks counted by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from magnet.metrics import rle_encode
from magnet.refshapes import sample
from magnet.refshapes.programs import Facts, sole
from magnet.refshapes.words import RARE
from magnet.workbench.paraphrases import (
    MEANING,
    agreement,
    ask_wordings,
    in_common_words,
    paraphrases,
    summarize_paraphrases,
    summarize_wordings,
)


@pytest.fixture(scope="module")
def said() -> pd.DataFrame:
    return paraphrases("val", 45, num_forms=3)


def test_all_forms_say_what_one_sentence_of_the_scene_says(said):
    for (split, seed, scene, program), part in said.groupby(MEANING):
        drawn = sample(seed, scene, split, 8)
        (kind,), (target,) = part["kind"].unique(), part["target"].unique()
        assert (kind, target) in [
            (one.kind, one.target) for one in drawn.expressions if json.dumps(one.program) == program
        ]
        assert sole(json.loads(program), Facts(drawn.scene)) == target
        assert 2 <= len(part) <= 3 and part["text"].is_unique


def test_forms_use_common_words_and_one_reading(said):
    rare = {word for forms in RARE.values() for form in forms for word in form.split() if "{" not in word}
    assert not rare & {word for text in said["text"] for word in text.split()}
    assert "ambiguous" not in set(said["kind"]) and said["kind"].nunique() == 8
    pd.testing.assert_frame_equal(said, paraphrases("val", 45, num_forms=3))


def bar(length: int) -> str:
    """A row of so many pixels on 10 x 10."""
    mask = np.zeros((10, 10), bool)
    mask[0, :length] = True
    return rle_encode(mask)


def answers(**lengths: list[int]) -> pd.DataFrame:
    """Per program the lengths of the bars marked; the object is right where a bar is longer than 5."""
    rows = [
        {"split": "val", "seed": 0, "scene": k, "kind": "location", "program": name, "rle": bar(length),
         "image_size": 10, "right": length > 5}
        for k, (name, marked) in enumerate(lengths.items()) for length in marked
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_agreement_by_hand():
    table = agreement(answers(a=[10, 9, 6], b=[0, 0], c=[0, 4], d=[8, 8, 8]))
    assert table["num_forms"].tolist() == [3, 2, 2, 3] and table["scene"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(table["mean_iou"], [(9 / 10 + 6 / 10 + 6 / 9) / 3, 1, 0, 1])
    np.testing.assert_allclose(table["close"], [1 / 3, 1, 0, 1])
    assert table["all_right"].tolist() == [True, False, False, True]
    assert table["all_wrong"].tolist() == [False, True, True, False]


def test_the_summary_counts_each_thing_said_once():
    summary = summarize_paraphrases(answers(a=[10, 2, 10], b=[10, 10], c=[1, 1], d=[8, 8, 8, 8]), num_draws=200)
    expected = {"mean_iou": (0.2 + 0.2 + 1 + 9) / 12 * 100, "close": 100 * (1 / 3 + 3) / 4}
    assert summary["value"].to_dict() == pytest.approx(expected | {"all_right": 50, "all_wrong": 25, "mixed": 25})
    assert (summary["n"] == 4).all() and (summary["low"] <= summary["value"]).all()


def test_the_same_is_said_in_common_words():
    said = in_common_words("testR", 12)
    rare = {word for forms in RARE.values() for form in forms for word in form.split() if "{" not in word}
    assert all(rare & set(text.split()) for text in said["text"])
    assert not any(rare & set(text.split()) for text in said["common"])
    for row in said.itertuples():
        drawn = sample(row.seed, row.scene, "testR", 8)
        assert (row.text, row.target) in [(one.text, one.target) for one in drawn.expressions]


def test_wordings_are_paired_and_each_gets_its_own_answer(monkeypatch):
    said = in_common_words("testR", 6)

    def ask(predictor, questions, progress):
        return pd.DataFrame({"right": questions["text"].isin(said["common"])}, questions.index)

    monkeypatch.setattr("magnet.workbench.paraphrases.ask_about_scenes", ask)
    answers = ask_wordings(None, said)
    assert not answers["right"].any() and answers["common_right"].all()
    summary = summarize_wordings(answers.assign(right=answers["scene"] < 3), num_draws=200)
    share = 100 * (said["scene"] < 3).mean()
    assert summary["value"].tolist() == pytest.approx([share, 100, 100 - share])
    assert summary.loc["difference", "low"] < 100 - share < summary.loc["difference", "high"]
