"""Words hidden and removed: the tokens a network gets, one batch against one by one, and a network that is known."""

import re
from dataclasses import replace
from html import escape

import numpy as np
import pytest
import torch
from conftest import tiny_config, tiny_magnet
from PIL import Image
from test_coupalign import OWN
from torch import nn

import magnet
from magnet.config import DataConfig
from magnet.data import load_tokenizer
from magnet.explore.occlusion import iou, occlude
from magnet.explore.word_plots import occlusion_figure
from magnet.explore.word_table import draw_occlusion
from magnet.metrics import rle_decode
from magnet.predictor import Predictor

TOKENIZER = load_tokenizer("refshapes")
RED = TOKENIZER.convert_tokens_to_ids("red")


class RedOrAll(nn.Module):
    """Marks the left half where "red" is read, else everything."""

    def forward(self, images, token_ids, token_mask):
        self.token_ids = token_ids
        logits = torch.ones(len(token_ids), 8, 8)
        logits[:, :, 4:] -= 2.0 * (token_ids == RED).any(1)[:, None, None]
        return {"mask_logits": logits}


@pytest.fixture()
def predictor() -> Predictor:
    predictor = Predictor(RedOrAll(), DataConfig(image_size=8), "refshapes")
    predictor.set_image(Image.new("RGB", (8, 8)))
    return predictor


def test_only_the_word_that_is_used_changes_the_mask(predictor):
    truth = np.zeros((8, 8), bool)
    truth[:, :4] = True
    table = occlude(predictor, "the red star", truth)
    assert table["word"].tolist() == ["", "the", "the", "red", "red", "star", "star"]
    assert table["way"].tolist() == ["whole"] + ["hidden", "removed"] * 3
    assert table["text"].tolist()[3:5] == ["the [MASK] star", "the star"]
    without_red = table["word"] == "red"
    assert table.loc[without_red, "same"].tolist() == [0.5, 0.5] and (table.loc[~without_red, "same"] == 1).all()
    assert table["iou"].tolist() == table["same"].tolist()
    assert table["area"].tolist() == [0.5, 0.5, 0.5, 1, 1, 0.5, 0.5]
    assert (rle_decode(table.iloc[0]["rle"], 8, 8) == truth).all()


def test_a_hidden_word_leaves_a_mask_for_each_of_its_pieces(predictor):
    text = "the redbrown star"
    pieces = TOKENIZER.tokenize("redbrown")
    occlude(predictor, text)
    whole, _, _, hidden, removed, *_ = predictor.model.token_ids.tolist()
    places = slice(2, 2 + len(pieces))
    assert hidden[places] == [TOKENIZER.mask_token_id] * len(pieces)
    assert hidden[:2] + hidden[places.stop :] == whole[:2] + whole[places.stop :]
    assert removed[:4] == [*whole[:2], *whole[places.stop : places.stop + 2]]


def test_one_word_can_be_removed_and_none_cannot_be_asked(predictor):
    table = occlude(predictor, "red")
    assert table["text"].tolist() == ["red", "[MASK]", ""] and table["iou"].isna().all()
    with pytest.raises(ValueError, match="holds no word"):
        occlude(predictor, "  ")


def test_two_empty_masks_are_the_same():
    nothing = np.zeros((2, 2), bool)
    assert iou(nothing, nothing) == 1 and iou(nothing, ~nothing) == 0


def tiny_coupalign():
    config = tiny_config()
    return replace(config, model=replace(config.model, method="coupalign", coupalign=OWN))


@pytest.mark.parametrize("make", [tiny_config, tiny_magnet, tiny_coupalign])
def test_one_batch_answers_as_one_by_one(make):
    config = make()
    torch.manual_seed(0)
    predictor = Predictor(magnet.build_model(config.model), config.data, "refshapes")
    picture = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    predictor.set_image(picture)
    table = occlude(predictor, "the red star left of the ring")
    together, alone = predictor.ask(table["text"].tolist()), [predictor.ask([text])[0] for text in table["text"]]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-3)
    first = rle_decode(table.iloc[0]["rle"], 50, 70)
    np.testing.assert_array_equal(first, predictor.predict(table.iloc[0]["text"])[0])


def test_on_the_screen_every_word_stands_beside_its_numbers_and_is_no_markup(predictor):
    text, truth = "red <b> star", np.ones((8, 8), bool)
    table = occlude(predictor, text, truth)
    drawn = draw_occlusion("data:,", (8, 8), table)
    cells = re.findall(r"<td[^>]*>([^<]*)", drawn)
    found = [f"{table.iloc[0][name]:.2f}" for name in ("same", "iou")]
    for word, part in table[1:].groupby(["position", "word"]):
        ways = part.set_index("way")
        numbers = [f"{ways.loc[way, name]:.2f}" for name in ("same", "iou") for way in ("hidden", "removed")]
        found += [f"{word[0] + 1} {escape(word[1])}", *numbers]
    assert cells == ["none left out", *found] and {"0.50", "1.00"} <= set(cells)
    assert "most changed: [MASK]" in drawn and drawn.count("<svg") == 2
    unknown = draw_occlusion("data:,", (8, 8), occlude(predictor, text))
    assert "with the truth" in drawn and "with the truth" not in unknown


def test_the_figure_names_every_word_and_shows_the_truth_where_it_is_known(predictor):
    image = np.zeros((8, 8, 3), np.uint8)
    table = occlude(predictor, "red $x_1$ red", np.ones((8, 8), bool))
    figure = occlusion_figure(image, table)
    assert [tick.get_text() for tick in figure.axes[2].get_yticklabels()] == ["red", "$x_1$", "red"]
    assert len(figure.axes) == 4
    assert figure.axes[3].lines[0].get_xdata().tolist() == table.loc[table["way"] == "hidden", "iou"].tolist()
    assert len(occlusion_figure(image, occlude(predictor, "red")).axes) == 3
