"""Words hidden in many sentences: a network that is known, and its words beside their attention."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ASSETS, tiny_magnet
from test_occlusion import RedOrAll

import magnet
from magnet.config import DataConfig
from magnet.data import read_refer, select_split
from magnet.explore.word_effects import same_word, summarize_effects, word_effects
from magnet.predictor import Predictor
from magnet.workbench.attention_mass import attention_inside


@pytest.fixture(scope="module")
def expressions() -> pd.DataFrame:
    table = select_split(read_refer(ASSETS, cache=False), "val").iloc[:4].copy()
    return table.assign(text=["the red star", "red", "the blue ring", "the redbrown thing"])


def test_only_the_word_that_the_network_reads_changes_the_mask(expressions):
    predictor = Predictor(RedOrAll(), DataConfig(image_size=8), "refshapes")
    table = word_effects(predictor, expressions, progress=False)
    assert table["word"].tolist() == " ".join(expressions["text"]).split()
    assert table["position"].tolist() == [0, 1, 2, 0, 0, 1, 2, 0, 1, 2]
    changed = table["word"].str.startswith("red").to_numpy()  # the first piece of redbrown, too
    for way in ("hidden", "removed"):
        assert table[way].to_numpy() == pytest.approx(0.5 * changed, abs=0.02)
    assert table["lift"].isna().all()  # this network has no attention
    summary = summarize_effects(table, num_draws=20)
    assert summary.loc[("hidden", "colour"), "n"] == 3 and summary.loc[("hidden", "shape"), "value"] == 0
    assert "lift" not in summary.index.get_level_values("what")


def test_lift_is_that_of_the_word_at_its_place_and_words_of_pieces_have_none(expressions):
    config = tiny_magnet()
    torch.manual_seed(0)
    predictor = Predictor(magnet.build_model(config.model), config.data, "refshapes")
    table = word_effects(predictor, expressions, progress=False).set_index(["sent_id", "word"])["lift"]
    read = attention_inside(predictor, expressions, progress=False)
    sent_id = expressions["sent_id"].iloc[0]
    star = read[(read["sent_id"] == sent_id) & (read["word"] == "star")]
    assert table[sent_id, "star"] == pytest.approx((star["inside"] / star["area"]).mean())
    last = expressions["sent_id"].iloc[3]
    assert np.isnan(table[last, "redbrown"]) and not np.isnan(table[last, "the"])


def test_agreement_and_chance_by_hand():
    rows = [  # in the first sentence attention is right, in the second it is wrong, in the third nothing changes
        (1, 0.1, 0.9), (1, 0.8, 1.5), (2, 0.7, 1.0), (2, 0.7, 1.1), (2, 0.1, 2.0), (2, 0.0, 0.3), (3, 0.2, 5.0),
        (1, 0.9, np.nan),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["sent_id", "removed", "lift"])
    table["image_id"] = table["sent_id"]
    found = same_word(table.sample(frac=1, random_state=0), num_draws=20)
    assert found["value"].tolist() == [50, 50, 0] and found["n"].tolist() == [2, 2, 2]
    assert (found.loc["difference", "low"], found.loc["difference", "high"]) == (-50, 50)
    nothing = same_word(table[table["sent_id"] == 3], num_draws=20)
    assert nothing["n"].tolist() == [0, 0, 0] and nothing["value"].isna().all()
