"""The playground and the proposal viewer without a browser: what is asked, shown and said, and what is refused."""

import base64
import io
import time
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ASSETS, tiny_config
from matplotlib.backend_bases import FigureCanvasBase
from PIL import Image
from test_coupalign import OWN
from test_occlusion import RedOrAll

import magnet
from magnet.config import DataConfig
from magnet.data import encode, read_refer, select_split
from magnet.explore.panel import LARGEST
from magnet.explore.phrases import swap_word, unknown_words, words_of_kind
from magnet.explore.playground import ATTENTION, MASK, OCCLUSION, PhrasePlayground
from magnet.explore.proposals import ProposalViewer, read_proposals
from magnet.metrics import rle_decode
from magnet.predictor import Predictor
from magnet.workbench.overlay import outline

PICTURE = np.full((40, 60, 3), 90, np.uint8)


@pytest.fixture()
def predictor() -> Predictor:
    """Marks the left half where "red" is read, else everything; it has no attention to show."""
    return Predictor(RedOrAll(), DataConfig(image_size=8), "refshapes")


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return magnet.load("refshapes-tiny")


@pytest.fixture(scope="module")
def expressions() -> pd.DataFrame:
    return select_split(read_refer(ASSETS, cache=False), "val")


def shown(widget) -> list[bool]:
    return [bool(place.value) and place.layout.display is None for place in widget.places]


def test_enter_asks_and_the_words_can_be_swapped(predictor):
    playground = PhrasePlayground(predictor, PICTURE, "the red star")
    assert playground.phrase.value == "the red star" and playground.answer.mask.mean() == 0.5
    assert playground.word.options == (("1 the", 0), ("2 red", 1), ("3 star", 2))
    playground.phrase.value = "a red ring"  # as Enter does
    assert playground.answer.text == "a red ring" and shown(playground)[MASK]
    playground.word.value = 1
    assert "blue" in playground.other.options and "red" not in playground.other.options
    playground.other.value = "blue"
    assert playground.phrase.value == "a blue ring" and playground.answer.mask.all() and not playground.other.value


def test_an_empty_phrase_leaves_the_picture_alone(predictor):
    playground = PhrasePlayground(predictor, PICTURE, "the red star")
    playground.phrase.value = "  "
    assert "holds no word" in playground.said and playground.answer is None
    assert shown(playground) == [True, False, False]
    picture = playground.places[MASK].value
    assert 'viewBox="0 0 60 40"' in picture and "<image" in picture and "<use" not in picture
    playground.phrase.value = "the red star"
    assert playground.answer is not None and shown(playground) == [True, False, True]


def test_unknown_words_are_said_and_warnings_are_not_raised(predictor):
    playground = PhrasePlayground(predictor, PICTURE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        playground.ask("☃")
    assert "☃, read as [UNK]" in playground.said and "this model has never seen" in playground.said
    assert unknown_words(predictor, "the red zorgon, please") == {"zorgon": "z ##o ##r ##gon"} | {
        word: read for word, read in unknown_words(predictor, "please").items()
    }


def test_what_goes_wrong_is_said_and_the_next_phrase_is_answered(predictor, tmp_path):
    playground = PhrasePlayground(predictor)
    playground.ask("red")
    assert "no picture yet" in playground.said
    (tmp_path / "words.png").write_text("<b>")
    for file in ("words.png", "none.png"):
        playground.show(tmp_path / file)
        assert file in playground.said
    playground.upload.value = ({"name": "broken.jpg", "type": "", "size": 1, "content": memoryview(b"x"),
                                "last_modified": pd.Timestamp(0, tz="UTC").to_pydatetime()},)  # fmt: skip
    assert "broken.jpg is no picture" in playground.said
    playground.show_expression(0)
    assert "there are no expressions" in playground.said
    playground.show(PICTURE, "red")
    assert playground.answer.mask.shape == (40, 60)


def test_it_says_that_it_works(predictor, monkeypatch):
    playground, said = PhrasePlayground(predictor, PICTURE), []
    monkeypatch.setattr(predictor, "predict", lambda text: said.append(playground.said) or (PICTURE[..., 0] > 0, 1.0))
    playground.ask("red")
    assert said == ["<i>working …</i>"] and "score 1.00" in playground.said


def test_the_mask_is_drawn_with_the_truth_where_it_is_known_and_beside_the_one_before(shipped, expressions):
    playground = PhrasePlayground(shipped, expressions=expressions)
    first, truth = playground.answer, playground.truths[playground.answer.text]
    assert all(outline(mask) in playground.places[MASK].value for mask in (first.mask, truth))
    playground.ask("the star")
    drawn = playground.places[MASK].value
    assert all(outline(mask) in drawn for mask in (first.mask, playground.answer.mask)) and "before: " in drawn
    playground.ask("the ring")
    assert outline(truth) not in playground.places[MASK].value  # nobody knows what "the ring" means here


def test_leaving_out_words_can_be_switched_off(predictor):
    playground = PhrasePlayground(predictor, PICTURE, "red")
    playground.each_word.value = False
    assert not shown(playground)[OCCLUSION]
    playground.ask("red star")
    assert not shown(playground)[OCCLUSION]
    playground.each_word.value = True
    assert shown(playground)[OCCLUSION]


def test_large_and_sideways_pictures_are_shown_upright_and_small(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1500, 900)).save(tmp_path / "sideways.jpg", exif=exif)
    playground = PhrasePlayground(predictor, tmp_path / "sideways.jpg", "red")
    assert playground.image.shape == (LARGEST, 384, 3) and playground.answer.mask.shape == (LARGEST, 384)
    assert "640 of its 900 × 1500 pixels" in playground.said


def test_pictures_of_a_table_come_with_their_sentence_and_truth(shipped, expressions):
    playground = PhrasePlayground(shipped, expressions=expressions)
    assert playground.phrase.value == expressions["text"].iloc[0] and all(shown(playground))
    playground.row.value = 4
    truth = rle_decode(expressions["rle"].iloc[4], 96, 96)
    assert (playground.truths[expressions["text"].iloc[4]] == truth).all() and playground.row.max == 35
    assert playground.answer.attention.shape[-1] == len(playground.answer.tokens) == 3
    assert playground.answer.attention.max() <= 1 and "[CLS]" not in playground.answer.tokens


def test_the_row_box_follows_and_a_row_that_is_not_there_is_said(shipped, expressions):
    playground = PhrasePlayground(shipped, expressions=expressions)
    playground.show_expression(5)
    assert playground.row.value == 5
    for row in (len(expressions), -1):
        playground.show_expression(row)
        assert f"there is no row {row}; they go from 0 to" in playground.said
    playground.row.value = 0
    assert playground.phrase.value == expressions["text"].iloc[0]


def test_of_an_endless_phrase_only_what_is_read_is_left_out(shipped, expressions):
    playground = PhrasePlayground(shipped, expressions=expressions)
    playground.ask("red " * 3000)
    assert len(playground.leaving_out) == 1 + 2 * (shipped.data.num_tokens - 2)
    assert len(playground.said) < 300 and "is cut" in playground.said


def test_a_shipped_network_answers_within_a_second(shipped, expressions):
    playground = PhrasePlayground(shipped, expressions=expressions)
    took = []
    for word in ("red", "blue", "green"):
        start = time.process_time()  # whatever else the machine does
        playground.ask(f"the {word} star left of the ring")
        took.append(time.process_time() - start)
    assert min(took) < 1


def test_an_answer_looks_thrice_at_the_picture_however_long_the_phrase_and_draws_no_figure(
    shipped, expressions, monkeypatch
):
    playground, looks, look = PhrasePlayground(shipped, expressions=expressions), [], shipped.model.look
    monkeypatch.setattr(shipped.model, "look", lambda images: looks.append(len(images)) or look(images))
    monkeypatch.setattr(FigureCanvasBase, "print_figure", None)  # matplotlib takes tenths of seconds
    playground.ask("the big red star to the left of the small blue ring with stripes")
    assert all(shown(playground)) and looks == [1, 1, 1]  # the mask, the attention, all words left out


def test_viewers_without_a_kernel_see_a_picture(predictor):
    playground = PhrasePlayground(predictor, PICTURE, "red star")
    bundle = playground._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    whole = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert whole.size == playground.stand_in().size and not shown(playground)[ATTENTION]
    playground.each_word.value = False
    assert playground.stand_in().height < whole.height
    assert PhrasePlayground(predictor).stand_in().size == (1, 1)


def test_words_are_swapped_for_their_kind(predictor):
    assert swap_word("the red star", 1, "light blue") == "the light blue star"
    assert "ring" in words_of_kind(predictor.tokenizer, "star") and words_of_kind(predictor.tokenizer, "the") == []
    with pytest.raises(ValueError, match="no word number 3; it has 3"):
        swap_word("the red star", 3, "blue")
    with pytest.raises(ValueError, match="in place of 'red'; type a word"):
        swap_word("the red star", 1, " ")


# Proposals ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coupalign() -> Predictor:
    config = tiny_config()
    torch.manual_seed(0)
    model = magnet.build_model(replace(config.model, method="coupalign", coupalign=OWN))
    return Predictor(model, config.data, "refshapes")


def test_proposals_are_those_of_the_network_by_weight(coupalign):
    coupalign.set_image(PICTURE)
    truth = np.zeros((40, 60), bool)
    truth[:20] = True
    table = read_proposals(coupalign, "the red star", truth)
    with torch.no_grad():
        outputs = coupalign.model.eval()(coupalign.image, *encode(coupalign.tokenizer, ["the red star"]))
    assert sorted(table["proposal"]) == list(range(5)) and table["weight"].is_monotonic_decreasing
    weights = outputs["proposal_weights"][0, table["proposal"].tolist()]
    np.testing.assert_allclose(table["weight"], weights.tolist(), rtol=1e-5)
    for row in table.itertuples():
        mask = rle_decode(row.rle, 40, 60)
        assert row.area == mask.mean() and row.iou == pytest.approx((mask & truth).sum() / (mask | truth).sum())
    assert read_proposals(coupalign, "red")["iou"].isna().all()


def test_the_viewer_shows_proposals_and_names_the_best(coupalign):
    viewer = ProposalViewer(coupalign, PICTURE, "the red star", np.ones((40, 60), bool), num_shown=3)
    best = viewer.table["iou"].max()
    assert "3 of 5 proposals" in viewer.said and f"IoU {best:.2f}" in viewer.said and shown(viewer) == [True]
    viewer.phrase.value = ""
    assert "holds no word" in viewer.said and viewer.table is None and shown(viewer) == [False]


def test_of_a_large_picture_proposals_and_truth_are_shown_small(coupalign):
    truth = np.zeros((900, 1500), bool)
    truth[:, :750] = True
    viewer = ProposalViewer(coupalign, Image.new("RGB", (1500, 900)), "red", truth)
    assert viewer.truth.shape == viewer.image.shape[:2] == (384, LARGEST) and viewer.truth.mean() == 0.5
    assert "640 × 384 of its 1500 × 900 pixels" in viewer.said and viewer.table["iou"].notna().all()


def test_another_network_has_no_proposals(shipped):
    viewer = ProposalViewer(shipped, PICTURE, "the red star")
    assert "MagNet makes no proposals" in viewer.said and viewer.table is None
