"""Tags against expectations made by hand, on real human sentences, and object tags against the masks themselves."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from magnet.data.tags import add_tags, add_token_tags, word_tags, words_of
from magnet.metrics import rle_encode

REAL = os.environ.get("MAGNET_REAL_DATA")
needs_real_data = pytest.mark.skipif(not REAL, reason="MAGNET_REAL_DATA is unset")

EXPECTED = {  # sentences of RefCOCOg (google, val) as people wrote them -> the tags a person would give
    "an elephant with no tusks": "relation negation",
    "a large vase between two smaller vases": "relation superlative attribute",
    "left half sofa of picture": "location",
    "person on the left in the right hand picture": "location",
    "the middle giraffe with a patch of sunlight hitting its back": "location relation ambiguous",
    "a person riding a horse farthest from the ocean water": "relation superlative ambiguous",
    "a cat ' s reflection in a mirror where you can see both the cat and the reflection": "relation",
    "the elephant on the right facing the left": "location",
    "a man wearing a blue shirt and white pants sitting on a horse": "relation attribute ambiguous",
    "cut piece of pizza not yet seperated": "negation",
    "tallest giraffe in the image": "superlative",
    "the umbrella that the girl in red , not pink , is holding": "relation attribute negation",
    "bear to the left of purple ribbon": "location relation attribute",
    "the giraffe directly above the bird": "relation",
    "the tray in front of the man with flowers on it": "relation ambiguous",
    "the back of a blue truck with a logo on the door": "relation attribute ambiguous",
    "the large wine glass that isn ' t being held": "attribute negation",
    "the third teddy bear from the right": "location ordinal",
    "the 3rd farthest plane in the row of 4": "relation superlative ordinal",
    "a giraffe looking back at the camera": "",
    "white dog facing camera": "attribute",
    "tv": "",
    "catcher": "",
    "two baby bears": "",
}


def kinds_of(sentence: str) -> set[str]:
    tags = word_tags(words_of(sentence))
    return {name.removeprefix("has_") for name, value in tags.items() if name != "num_words" and value}


@pytest.mark.parametrize("sentence", EXPECTED)
def test_word_tags_are_what_a_person_would_say(sentence):
    assert kinds_of(sentence) == set(EXPECTED[sentence].split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It ' s the T - shirt, isn’t it?", ["it's", "the", "t-shirt", "isn't", "it"]),
        ("bus in which ' sai ' is written", ["bus", "in", "which", "sai", "is", "written"]),
        ("CAFÉ no. 12", ["café", "no", "12"]),
        ("...", []),
    ],
)
def test_words(text, words):
    assert words_of(text) == words


@needs_real_data
def test_tags_split_real_language_into_usable_groups():
    """The hand-made cases are real sentences, and no tag is nearly always or nearly never set."""
    records = json.loads((Path(REAL) / "refcocog_google_val_expressions.json").read_text())
    sentences = [record["sent"] for record in records]
    assert sum(sentence in set(sentences) for sentence in EXPECTED) >= 15
    shares = pd.DataFrame([word_tags(words_of(sentence)) for sentence in sentences]).mean()
    assert shares["num_words"] == pytest.approx(8.4, abs=0.5)  # published: 8.43 words an expression
    assert shares["has_attribute"] > 0.5 and shares["has_relation"] > 0.5  # G-Ref is known for both
    assert shares.drop("num_words").between(0.005, 0.75).all()


def table_of(masks: list[np.ndarray], **columns) -> pd.DataFrame:
    size = {"height": masks[0].shape[0], "width": masks[0].shape[1]}
    rows = {"text": "a cup", "split": "train", "area": [int(mask.sum()) for mask in masks]} | size | columns
    return pd.DataFrame({"rle": [rle_encode(mask) for mask in masks]} | rows)


def test_area_size_has_coco_thresholds():
    masks = []
    for area in (1, 32**2 - 1, 32**2, 96**2 - 1, 96**2):
        mask = np.zeros(120 * 120, bool)
        mask[:area] = True
        masks.append(mask.reshape(120, 120))
    assert add_tags(table_of(masks))["area_size"].tolist() == ["small", "small", "medium", "medium", "large"]


def test_touches_border_is_about_the_outermost_pixels():
    masks = list(np.random.default_rng(0).random((300, 6, 9)) < 0.03)
    masks = [mask for mask in masks if mask.any()]
    expected = [mask[[0, -1]].any() or mask[:, [0, -1]].any() for mask in masks]
    assert 0.2 < np.mean(expected) < 0.9
    assert add_tags(table_of(masks))["touches_border"].tolist() == expected


def test_rare_words_are_counted_in_training_expressions_only():
    mask = np.ones((4, 4), bool)
    texts = ["red cup"] * 9999 + ["red kettle"] + ["red kettle", "red samovar", "red cup", "Cup"]
    splits = ["train"] * 10_000 + ["val"] * 4
    table = add_tags(table_of([mask] * len(texts), text=texts, split=splits))
    assert table["has_rare_word"].tolist() == [False] * 9999 + [True, True, True, False, False]  # 1 in 10,000 is rare
    without_train = add_tags(table_of([mask] * 2, text=["red cup", "a samovar"], split="val"))
    assert not without_train["has_rare_word"].any()  # 1 in 2 is not


def test_a_sentence_made_ambiguous_is_tagged_so():
    table = table_of([np.ones((4, 4), bool)] * 2, text="the star", kind=["ambiguous", "attribute"])
    assert add_tags(table)["has_ambiguous"].tolist() == [True, False]


def test_token_tags_count_before_cutting():
    from transformers import BertTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cup", "##s"]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    table = pd.DataFrame({"text": ["cup", "cups", "cup " * 18, "cup " * 19]})
    tagged = add_token_tags(table, tokenizer, num_tokens=20)
    assert tagged["num_tokens"].tolist() == [3, 4, 20, 21] and tagged["cut"].tolist() == [False, False, False, True]
