"""Guessing hidden words: each is hidden once, by itself, and nothing but the sentence's rest is read."""

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from magnet.config import GroundingConfig, LanguageConfig
from magnet.data import encode, load_tokenizer
from magnet.data.masking import WordMasking
from magnet.losses.grounding import MaskGrounding
from magnet.models.language import LanguageBackbone
from magnet.refshapes.words import NOUNS_AND_ADJECTIVES
from magnet.workbench import words

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
CONFIG = GroundingConfig(context="text", num_layers=1, num_heads=2, at_least_one=True, dropout=0.0)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("refshapes")


@pytest.fixture
def parts(tokenizer):
    torch.manual_seed(0)
    network = words.TextOnly(LanguageBackbone(LanguageConfig(options=TINY), len(tokenizer)))
    return MaskGrounding(CONFIG, network, tokenizer), network


def as_sentences(texts, tokenizer) -> words.Sentences:
    return words.Sentences(texts, torch.arange(len(texts)).numpy(), *encode(tokenizer, texts, 12))


def test_sentences_belong_to_their_scenes(tokenizer):
    drawn, again = (words.draw_sentences(3, tokenizer, seed=5) for _ in range(2))
    assert drawn.texts == again.texts and drawn.texts != words.draw_sentences(3, tokenizer, seed=6).texts
    assert sorted(set(drawn.scene.tolist())) == [0, 1, 2] and len(drawn.scene) == len(drawn.texts)
    assert torch.equal(drawn.token_ids, encode(tokenizer, drawn.texts, 20)[0])


def test_uses_are_told_by_one_pattern_alone(tokenizer, parts):
    texts = ["the left star", "star left of the ring", "left of the left", "star from the left", "red star"]
    sentences = as_sentences(texts, tokenizer)
    found = words.find_uses(sentences, "left", {"of": "left of", "place": "left star", "left": "the left"})
    assert found.to_dict() == {1: "of", 3: "left"}  # 0 fits two, 2 holds it twice, 4 not at all
    language = parts[1].language
    states = words.word_vectors(language, sentences, found.index, tokenizer.convert_tokens_to_ids("left"))
    for row, place, before, after in zip((1, 3), (2, 4), *states.values()):
        ids, mask = sentences.token_ids[[row]], sentences.token_mask[[row]]
        torch.testing.assert_close(before, language.embed(ids)[0, place])
        torch.testing.assert_close(after, language(ids, mask)[0, place])


class Peeking:
    """Stands for Mask Grounding: notes what it was given, and answers "star" for sure."""

    def __init__(self, tokenizer):
        self.hide, self.seen, self.star = WordMasking(CONFIG, tokenizer), [], tokenizer.convert_tokens_to_ids("star")

    def modules(self):
        return []

    def eval(self):
        pass

    def predict(self, network, batch, hidden):
        self.seen += list(zip(*hidden))
        return 50.0 * F.one_hot(torch.full((len(hidden[0]),), self.star), len(self.hide.ordinary)).float()


def test_every_word_is_hidden_once_and_alone(tokenizer):
    texts = ["the red star", "star left of the ring"]
    sentences, peeking = as_sentences(texts, tokenizer), Peeking(tokenizer)
    table = words.guess_each_word(peeking, torch.nn.Identity(), sentences, tokenizer)
    assert table["token"].tolist() == " ".join(texts).split()
    assert table["right"].tolist() == [word == "star" for word in table["token"]]
    assert table["probability"].round(3).tolist() == [float(word == "star") for word in table["token"]]
    for (ids, hidden), row in zip(peeking.seen, table.itertuples()):
        whole = sentences.token_ids[row.sentence]
        assert hidden.nonzero().flatten().tolist() == [row.position]
        assert ids[row.position] == tokenizer.mask_token_id and torch.equal(ids[~hidden], whole[~hidden])


def test_training_on_text_learns_a_sentence_by_heart(tokenizer, parts):
    sentences = as_sentences(["the red star left of the ring"] * 2, tokenizer)
    before = words.guess_each_word(*parts, sentences, tokenizer)["right"].mean()
    log = words.train_on_text(*parts, sentences, num_steps=60, batch_size=8, lr=1e-2)
    after = words.guess_each_word(*parts, sentences, tokenizer)
    assert before < 0.3 and after["right"].all() and (after["probability"] > 0.5).all()
    assert log["loss"].iloc[-1] < 0.3 * log["loss"].iloc[0] and log["accuracy"].iloc[-10:].mean() > 90
    (best, probability), *others = words.top_guesses(*parts, "the [MASK] star left of the ring", tokenizer)
    assert best == "red" and probability > 0.5 > sum(other for _, other in others)


def test_accuracy_is_counted_for_each_kind():
    guesses = pd.DataFrame(
        [("colour", True, 0), ("colour", False, 0), ("colour", True, 1), ("grammar", True, 0), ("grammar", True, 1)],
        columns=["kind", "right", "scene"],
    )
    table = words.accuracy_by_kind(guesses)
    assert table.index.tolist() == ["all", "colour", "grammar"] and table["n"].tolist() == [5, 3, 2]
    assert table["accuracy"].tolist() == pytest.approx([80, 200 / 3, 100])
    assert table.loc["colour", ["accuracy_low", "accuracy_high"]].tolist() == pytest.approx([50, 100])


def test_every_name_has_a_kind():
    for name, forms in NOUNS_AND_ADJECTIVES.items():
        assert "grammar" not in {words.word_kind(word) for form in forms for word in form.split()}, name
    wanted = {"violet": "colour", "hoop": "shape", "banded": "texture", "huge": "size", "larger": "size",
              "left": "place", "2nd": "rank", "thing": "shape", "of": "grammar", "##let": "grammar"}  # fmt: skip
    assert {word: words.word_kind(word) for word in wanted} == wanted


def test_nearest_words_follow_the_embeddings(tokenizer, parts):
    language = parts[1].language
    assert words.nearest_words(language, tokenizer)["is_synonym"].mean() < 0.4
    table = language.encoder.get_input_embeddings().weight
    with torch.no_grad():
        for number, same in enumerate(words.SYNONYMS):
            table[tokenizer.convert_tokens_to_ids(list(same))] += 20 * F.one_hot(torch.tensor(number), 32)
    found = words.nearest_words(language, tokenizer)
    assert found["is_synonym"].all() and found["same_kind"].all()
    assert found["word"].tolist() == [word for same in words.SYNONYMS for word in same]
