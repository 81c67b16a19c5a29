"""Attention mass inside the truth: against loops, on attention that is known, and for LAVT and MagNet."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ASSETS, tiny_config, tiny_magnet

import magnet
from magnet.data import encode, read_refer, select_split, squash_mask
from magnet.metrics import rle_decode
from magnet.predictor import Predictor
from magnet.workbench.attention_mass import attention_inside, inside_shares, summarize_attention
from magnet.workbench.diagnostics import word_attention


def test_shares_against_loops():
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(2, 3, 4, 5, generator=generator)
    masks = torch.zeros(2, 6, 8)  # cells of 2 x 2
    masks[0, :2, :2] = 1  # one whole cell
    masks[1, 4:, 3:6] = 1  # the half of one cell, and one whole
    inside, area = inside_shares(attention, masks)
    for t in range(5):
        first, second = attention[0, :, :, t], attention[1, :, :, t]
        assert inside[0, t] == pytest.approx(float(first[0, 0] / first.sum()))
        assert inside[1, t] == pytest.approx(float((first.new_tensor([0.5, 1]) * second[2, 1:3]).sum() / second.sum()))
    assert area.tolist() == pytest.approx([1 / 12, 1.5 / 12])


def test_attention_that_does_not_look_gives_the_area_and_one_that_does_gives_all():
    masks = torch.zeros(1, 8, 8)
    masks[0, 2:4] = 1
    blind = torch.full((1, 4, 4, 1), 0.3)
    seeing = masks[:, ::2, ::2, None] * 0.01  # small, but nowhere else
    for attention, expected in ((blind, 0.25), (seeing, 1.0), (0 * blind, 0.0)):
        inside, area = inside_shares(attention, masks)
        assert (inside.item(), area.item()) == (pytest.approx(expected), 0.25)


@pytest.fixture(scope="module")
def expressions() -> pd.DataFrame:
    return select_split(read_refer(ASSETS, cache=False), "val").iloc[[5, 2, 9, 7, 3]]


@pytest.mark.parametrize("config", [tiny_config(), tiny_magnet()], ids=["lavt", "magnet"])
def test_every_word_of_every_expression_at_every_stage(config, expressions):
    torch.manual_seed(0)
    predictor = Predictor(magnet.build_model(config.model), config.data, "refshapes")
    table = attention_inside(predictor, expressions, batch_size=2, progress=False)
    assert list(dict.fromkeys(table["sent_id"])) == expressions["sent_id"].tolist()
    row = expressions.iloc[3]
    part = table[table["sent_id"] == row.sent_id]
    words = ["[CLS]", *predictor.tokenizer.tokenize(row.text), "[SEP]"]
    image = magnet.data.dataset.read_image(f"{expressions.attrs['images']}/{row.file}", row.height, row.width)
    predictor.set_image(image)
    ids, mask = encode(predictor.tokenizer, [row.text], config.data.num_tokens)
    maps = word_attention(predictor.model, predictor.image, ids, mask)
    truth = torch.tensor(squash_mask(rle_decode(row.rle, row.height, row.width), config.data.image_size))[None]
    maps = {name: one for name, one in maps.items() if one.shape[1] > 1}
    assert set(part["stage"]) == set(maps) and (part["image_id"] == row.image_id).all()
    for stage, rows in part.groupby("stage"):
        inside, area = inside_shares(maps[stage], truth)
        assert rows["word"].tolist() == words and rows["token"].tolist() == list(range(len(words)))
        np.testing.assert_allclose(rows["inside"], inside[0, : len(words)], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(rows["area"], area.expand(len(words)), rtol=1e-5)
    assert set(table.loc[table["word"].isin(["[CLS]", "[SEP]"]), "kind"]) == {"special"}
    assert set(table.loc[table["word"] == "the", "kind"]) <= {"grammar"}


def test_expressions_without_a_target_are_left_out(expressions):
    config = tiny_config()
    predictor = Predictor(magnet.build_model(config.model), config.data, "refshapes")
    areas = expressions["area"].where(expressions["sent_id"] != expressions["sent_id"].iloc[0], 0)
    table = attention_inside(predictor, expressions.assign(area=areas), progress=False)
    assert set(table["sent_id"]) == set(expressions["sent_id"].iloc[1:])


def test_the_summary_divides_means():
    table = pd.DataFrame({
        "image_id": [1, 2, 3, 1], "stage": "a", "kind": ["colour", "colour", "colour", "place"],
        "inside": [0.2, 0.4, 0.6, 0.1], "area": [0.1, 0.1, 0.2, 0.1],
    })  # fmt: skip
    with pytest.warns(UserWarning, match="one image only"):
        summary = summarize_attention(table, num_draws=300)
    value = summary["value"]["a", "colour"]
    assert value.to_dict() == pytest.approx({"inside": 40, "area": 100 * 0.4 / 3, "lift": 3})
    lift = summary.loc["a", "colour", "lift"]
    assert 2 <= lift["low"] < 3 < lift["high"] <= 4 and lift["n"] == 3
    assert np.isnan(summary.loc[("a", "place", "lift"), "low"])
