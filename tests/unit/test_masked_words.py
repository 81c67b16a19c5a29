"""Guessing hidden words in three contexts: which words are asked, who sees what, and the arithmetic of the summary."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ASSETS, tiny_config

import magnet
from magnet import runs
from magnet.config import GroundingConfig
from magnet.workbench import masked_words as study

SETTING = GroundingConfig(ratio=0.5, num_layers=1, num_heads=2, mask_encoder="pooled")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root, runs.ROOT = runs.ROOT, tmp_path_factory.mktemp("runs")
    yield magnet.fit(tiny_config(num_steps=2, val_every=2), progress=False)
    runs.ROOT = root


@pytest.fixture(scope="module")
def trained(run):
    return study.train_predictors(run, SETTING, num_steps=30, batch_size=8, lr=5e-2, progress=False)


@pytest.fixture(scope="module")
def asked(run, trained):
    return study.ask(run, trained[0], num_expressions=20, batch_size=16, progress=False)


def test_word_classes():
    kinds = study.word_classes()
    expected = {"violet": "purple", "disc": "circle", "banded": "striped", "tiny": "small"}
    assert all(kinds[word] == kinds[concept] for word, concept in expected.items())
    assert [kinds[word] for word in ("red", "star", "dotted", "big", "left")] == [
        "colour", "shape", "texture", "size", "place"]  # fmt: skip
    assert not {"the", "thing", "object", "of"} & kinds.keys()


def test_contexts_differ_in_what_they_see_alone(run):
    predictors, losses = study.train_predictors(run, SETTING, num_steps=0, progress=False)
    assert losses.empty and {name: one.config.context for name, one in predictors.items()} == {
        "text": "text", "image": "image", "mask": "mask"}  # fmt: skip
    first, *others = (one.state_dict() for one in predictors.values())
    assert all(torch.equal(value, other[name]) for other in others for name, value in first.items())


def test_training_moves_the_predictors_and_not_the_network(run, trained):
    predictors, losses = trained
    assert losses.shape == (30, 3) and np.isfinite(losses.to_numpy()).all()
    assert losses.iloc[-1].mean() < losses.iloc[0].mean() - 0.3
    fresh, _ = study.train_predictors(run, SETTING, num_steps=0, progress=False)
    for context, one in predictors.items():
        assert not torch.equal(one.bias, fresh[context].bias)
    _, same = study.train_predictors(run, SETTING, num_steps=30, batch_size=8, lr=5e-2, progress=False)
    pd.testing.assert_frame_equal(same, losses)
    _, other = study.train_predictors(run, SETTING, num_steps=30, batch_size=8, lr=5e-2, seed=1, progress=False)
    assert not other.equals(losses)


def test_all_begin_as_one_that_read_text(run):
    options = {"num_steps": 0, "progress": False}
    read, _ = study.train_predictors(run, SETTING, text_steps=3, **options)
    plain, _ = study.train_predictors(run, SETTING, **options)
    first, *others = (one.state_dict() for one in read.values())
    assert all(torch.equal(value, other[name]) for other in others for name, value in first.items())
    moved = {name for name, value in plain["text"].state_dict().items() if not torch.equal(value, first[name])}
    assert any(name.startswith("language.") for name in moved) and any(name.startswith("predictor.") for name in moved)


def test_a_name_says_what_a_predictor_sees(run, trained):
    """The one that learnt with the mask, asked as "text", does not see it."""
    options = {"num_expressions": 10, "progress": False}
    blind, sees = (study.ask(run, {name: trained[0]["mask"]}, **options) for name in ("text", "mask"))
    assert not np.allclose(blind["text loss"], sees["mask loss"], rtol=0, atol=1e-5)


def test_every_content_word_is_asked_once(asked):
    table = magnet.data.select_split(magnet.data.read_refer(ASSETS), "val")
    kinds, tokenizer = study.word_classes(), magnet.data.load_tokenizer("refshapes")
    assert asked["sent_id"].nunique() <= 20 < len(asked)
    for sent_id, part in asked.groupby("sent_id"):
        (row,) = table[table["sent_id"] == sent_id].itertuples()
        tokens = ["[CLS]", *tokenizer.tokenize(row.text)][:20]
        expected = [(place, token, kinds[token]) for place, token in enumerate(tokens) if token in kinds]
        assert list(zip(part["token"], part["word"], part["kind"])) == expected
        assert (part["image_id"] == row.image_id).all() and (part["text"] == row.text).all()


def test_answers_agree_with_one_another(asked):
    for context in ("text", "image", "mask", "other mask"):
        first = asked[f"{context} guesses"].str.split().str[0]
        assert ((first == asked["word"]) == asked[f"{context} right"]).all()
        assert (asked[f"{context} loss"] > 0).all()


def test_an_answer_is_what_the_predictor_says(run, trained, asked):
    """One question put together by hand."""
    predictors, question = trained[0], asked.iloc[7]
    table = magnet.data.select_split(magnet.data.read_refer(ASSETS), "val")
    tokenizer, model = magnet.data.load_tokenizer("refshapes"), run.load_model()
    dataset = magnet.data.ExpressionDataset(table, run.config.data, tokenizer, training=False)
    batch = magnet.data.collate([dataset[table["sent_id"].tolist().index(question["sent_id"])]])
    where = torch.zeros_like(batch["token_ids"], dtype=torch.bool)
    where[0, question["token"]] = True
    hidden = batch["token_ids"].masked_fill(where, tokenizer.mask_token_id), where
    for context, predictor in predictors.items():
        images = batch["images"] * (context != "text")
        with torch.no_grad():
            pixels = model.encode(images, hidden[0], batch["token_mask"])["pixel_features"]
            words = predictor.language(hidden[0], batch["token_mask"])
            features = {"word_features": words, "pixel_features": pixels}
            logits = predictor.predict(predictor, batch, hidden, features)
        truth = tokenizer.convert_tokens_to_ids(question["word"])
        loss = -logits.log_softmax(1)[0, truth].item()
        assert question[f"{context} loss"] == pytest.approx(loss, rel=1e-3), context


def test_other_masks_are_those_of_other_pictures(run, trained, asked, monkeypatch):
    seen = []
    monkeypatch.setattr(study, "_logits", lambda model, predictors, batch, others, hidden: seen.append(
        (batch["sent_ids"], batch["masks"], others)) or {"text": torch.zeros(len(others), 365)})  # fmt: skip
    study.ask(run, trained[0], num_expressions=20, batch_size=16, progress=False)
    sent_ids, masks, others = (torch.cat(part) for part in zip(*seen))
    image_of = asked.set_index("sent_id")["image_id"].to_dict()
    mask_of = {int(sent_id): mask for sent_id, mask in zip(sent_ids, masks)}
    for sent_id, other in zip(sent_ids.tolist(), others):
        owners = {image_of[one] for one, mask in mask_of.items() if torch.equal(mask, other)}
        assert owners and image_of[sent_id] not in owners


def made_up(num: int = 60) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    columns = {"sent_id": np.arange(num), "image_id": np.arange(num) // 3}
    for context, chance in {"text": 0.2, "image": 0.5, "mask": 0.9, "other mask": 0.5}.items():
        columns[f"{context} right"] = generator.random(num) < chance
        columns[f"{context} loss"] = generator.random(num)
    return pd.DataFrame(columns)


def test_the_summary_is_the_paired_comparison_of_the_package():
    table = made_up()
    summary = study.summarize_guesses(table, num_draws=2000)
    results = {
        name: table.assign(I=1, U=1, iou=table[f"{name} right"].astype(float)) for name in ("text", "image", "mask")
    }
    for more, less in (("image", "text"), ("mask", "image"), ("mask", "text")):
        expected = magnet.compare(results[more], results[less], num_draws=2000).set_index("metric").loc["mIoU"]
        row = summary.loc[f"{more} - {less}"]
        assert row["value"] == pytest.approx(expected["difference"])
        assert (row["low"], row["high"]) == pytest.approx((expected["low"], expected["high"]))
    assert summary.at["mask", "value"] == pytest.approx(100 * table["mask right"].mean())
    assert (summary["n"] == 60).all() and "mask - other mask" in summary.index


def test_losses_are_summarised_in_nats():
    table = made_up()
    table["mask loss"] = table["image loss"] - 0.25
    summary = study.summarize_guesses(table, "loss", num_draws=500)
    assert summary.at["text", "value"] == pytest.approx(table["text loss"].mean())
    difference = summary.loc["mask - image"]
    assert difference[["value", "low", "high"]].tolist() == pytest.approx([-0.25] * 3)  # paired: nothing is left
