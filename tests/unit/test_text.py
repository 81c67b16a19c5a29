"""The token rule, on a vocabulary small enough to do by hand and on BERT's own."""

import os
from pathlib import Path

import pytest
import torch

from magnet.data import encode, load_tokenizer, report

REAL = os.environ.get("MAGNET_REAL_DATA")
needs_real_data = pytest.mark.skipif(not REAL, reason="MAGNET_REAL_DATA is unset")
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "red", "cup", "##s", "cafe", "'"]
PAD, UNK, CLS, SEP, MASK, THE, RED, CUP, S, CAFE, APOSTROPHE = range(len(PIECES))


@pytest.fixture
def tokenizer(tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(PIECES) + "\n")
    return load_tokenizer(str(file))


def ids(tokenizer, text: str, num_tokens: int = 8, words: str = "sentence") -> list[int]:
    token_ids, token_mask = encode(tokenizer, [text], num_tokens, words)
    assert token_ids.dtype == token_mask.dtype == torch.int64
    assert token_ids.shape == token_mask.shape == (1, num_tokens)
    num_valid = int(token_mask.sum())
    assert token_mask[0].tolist() == [1] * num_valid + [0] * (num_tokens - num_valid)
    assert (token_ids[0, num_valid:] == tokenizer.pad_token_id).all()
    return token_ids[0, :num_valid].tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the red cups", [CLS, THE, RED, CUP, S, SEP]),
        ("The RED Café's", [CLS, THE, RED, CAFE, APOSTROPHE, UNK, SEP]),  # lower case, no accents, split at marks
        ("the teapot", [CLS, THE, UNK, SEP]),
        ("the red cup the red cup", [CLS, THE, RED, CUP, THE, RED, CUP, SEP]),
        ("the red cup the red cup the", [CLS, THE, RED, CUP, THE, RED, CUP, THE]),  # cut: the last [SEP] is lost
    ],
)
def test_token_rule(tokenizer, text, expected):
    assert ids(tokenizer, text) == expected


def test_bag_of_words_loses_order_and_nothing_else(tokenizer):
    assert ids(tokenizer, "red the cup", words="bag") == ids(tokenizer, "cup the red", words="bag")
    assert ids(tokenizer, "cup the red", words="bag") == [CLS, THE, RED, CUP, SEP]
    long = "cup red the cup red the cup the"  # cut first: the bag holds the words that the sentence has
    assert sorted(ids(tokenizer, long)) == sorted(ids(tokenizer, long, words="bag"))
    assert ids(tokenizer, long, words="bag") == [CLS, THE, THE, RED, RED, CUP, CUP, CUP]


def test_no_words(tokenizer):
    assert ids(tokenizer, "the red cup", words="none") == [CLS, SEP]


def test_other_words_settings_are_refused(tokenizer):
    with pytest.raises(ValueError, match="words='letters'"):
        encode(tokenizer, ["the"], 8, "letters")


def test_a_batch_is_its_rows(tokenizer):
    texts = ["the", "the red cups", "red " * 30]
    token_ids, token_mask = encode(tokenizer, texts, 8)
    for row, text in enumerate(texts):
        assert token_ids[row, token_mask[row] == 1].tolist() == ids(tokenizer, text)
    assert encode(tokenizer, [], 8)[0].shape == (0, 8)


def test_report_counts_what_the_rule_loses(tokenizer):
    texts = ["the", "", "  ", "teapot", "teapot kettle", "the teapot", "cup " * 7, "cup " * 6]
    found = report(tokenizer, texts, num_tokens=8)
    assert found == {
        "cut": {"count": 1, "first": [6]},
        "empty": {"count": 2, "first": [1, 2]},
        "only_unknown": {"count": 2, "first": [3, 4]},
    }


def test_shipped_vocabulary_reads_its_own_language():
    from magnet.refshapes import sample

    tokenizer = load_tokenizer("refshapes")
    texts = [expression.text for index in range(50) for expression in sample(seed=0, index=index).expressions]
    token_ids, _ = encode(tokenizer, texts, num_tokens=64)
    assert tokenizer.pad_token_id == 0 and (token_ids[:, 0] == tokenizer.cls_token_id).all()
    assert not (token_ids == tokenizer.unk_token_id).any()


@needs_real_data
def test_facts_of_berts_vocabulary():
    """Ids as published with bert-base-uncased; "playing" is one piece, "frisbees" two."""
    tokenizer = load_tokenizer(str(Path(REAL) / "bert-base-uncased-vocab.txt"))
    assert (len(tokenizer), tokenizer.pad_token_id, tokenizer.unk_token_id) == (30522, 0, 100)
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id) == (101, 102, 103)
    assert ids(tokenizer, "Hello, my dog is cute") == [101, 7592, 1010, 2026, 3899, 2003, 10140, 102]
    pieces = tokenizer.convert_ids_to_tokens(ids(tokenizer, "unaffable frisbees"))
    assert pieces == ["[CLS]", "una", "##ffa", "##ble", "fr", "##is", "##bee", "##s"]


@needs_real_data
def test_word_pieces_are_the_longest_known_prefixes():
    """Against WordPiece done by hand: greedy longest match on every real sentence."""
    import json

    file = Path(REAL) / "bert-base-uncased-vocab.txt"
    vocabulary = {piece: i for i, piece in enumerate(file.read_text(encoding="utf-8").splitlines())}

    def pieces(word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            candidates = (("##" if start else "") + word[start:end] for end in range(len(word), start, -1))
            piece = next((candidate for candidate in candidates if candidate in vocabulary), None)
            if piece is None:
                return [vocabulary["[UNK]"]]
            found.append(vocabulary[piece])
            start += len(piece.removeprefix("##") if start else piece)
        return found

    records = json.loads((file.parent / "refcocog_google_val_expressions.json").read_text())
    sentences = [record["sent"] for record in records]
    plain = [s for s in sentences if s.isascii() and all(c.isalnum() or c == " " for c in s)][
        :1000
    ]  # no marks to split at
    expected = [[101, *(i for word in s.lower().split() for i in pieces(word)), 102][:20] for s in plain]
    token_ids, token_mask = encode(load_tokenizer(str(file)), plain, 20)
    assert [row[mask == 1].tolist() for row, mask in zip(token_ids, token_mask)] == expected


# Other tokenizers, and what goes wrong


def test_a_bert_folder_reads_as_its_vocabulary_file(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "folder")
    again = load_tokenizer(str(tmp_path / "folder"))
    assert ids(again, "the red cups café") == ids(tokenizer, "the red cups café")


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_other_tokenizers_keep_their_own_specials(tmp_path, kind):
    from transformers import DistilBertTokenizerFast, RobertaTokenizerFast

    if kind == "roberta":
        letters = {letter: i + 5 for i, letter in enumerate("abcdefghijklmnopqrstuvwxyzĠ")}
        vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4} | letters
        made = RobertaTokenizerFast(vocab=vocabulary, merges=[])
        expected = [0, letters["a"], letters["Ġ"], letters["b"], 2]
    else:
        vocabulary = {piece: i for i, piece in enumerate([*PIECES, "a", "b"])}
        made = DistilBertTokenizerFast(vocab=vocabulary)
        expected = [CLS, vocabulary["a"], vocabulary["b"], SEP]
    made.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert ids(tokenizer, "a b") == expected
    assert encode(tokenizer, ["a b"], 8)[0][0, -1] == tokenizer.pad_token_id == (1 if kind == "roberta" else 0)
    assert report(tokenizer, ["", "a"], 8)["empty"] == {"count": 1, "first": [0]}


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/no-such-vocabulary", "vocab.txt"])
def test_a_missing_path_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr("magnet.data.text._from_library", lambda name, is_folder: pytest.fail("asked the hub"))
    with pytest.raises(FileNotFoundError, match="does not exist; where there is a network, `hf download"):
        load_tokenizer(name)


def test_an_unreachable_hub_is_answered_with_how_to_give_a_copy(monkeypatch, tmp_path):
    from huggingface_hub import HfApi

    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'no-such/model' here .*no route.*--local-dir"):
        load_tokenizer("no-such/model")


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no tokenizer in {tmp_path}"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("pieces", "says"), [(PIECES[1:], r"lacks \[PAD\]"), ([*PIECES, "the"], "holds a piece twice"), ([], "lacks")]
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, pieces, says):
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(pieces))
    with pytest.raises(ValueError, match=says):
        load_tokenizer(str(file))
