"""One phrase about one picture: the mask, where each word is read, and what there is to say about the words.

predictor.set_image("picture.png")
answer = answer_phrase(predictor, "the red star")
answer.mask, answer.score, answer.remarks
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from magnet.predictor import Predictor
from magnet.workbench.diagnostics import phrase_attention
from magnet.workbench.words import KINDS, word_kind


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Args: mask: (H,W) bool; score: 0 to 1, as of `Predictor.predict`; tokens: T pieces of words, without [CLS] and
    [SEP]; attention: (h,w,T), the share of each place's attention that a token gets, or None where the network has no
    pixel-word attention; remarks: what a reader should know, a line each."""

    text: str
    mask: np.ndarray
    score: float
    tokens: Sequence[str]
    attention: np.ndarray | None
    remarks: Sequence[str]


def answer_phrase(predictor: Predictor, text: str) -> Answer:
    """The predictor's answer about its picture. The attention is that of the finest stage.

    Warnings become remarks. Raises ValueError for a text without a word, RuntimeError before `set_image`.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mask, score = predictor.predict(text)
    remarks = [
        f"not in the vocabulary: {word}, read as {read}" for word, read in unknown_words(predictor, text).items()
    ]
    remarks += [str(warning.message) for warning in caught] + ([] if mask.any() else ["the mask is empty"])
    tokens, attention = _attention(predictor, text)
    return Answer(text=text, mask=mask, score=score, tokens=tokens, attention=attention, remarks=remarks)


def unknown_words(predictor: Predictor, text: str) -> dict[str, str]:
    """The words of a text that the vocabulary does not hold whole, with what is read instead: pieces, or [UNK]."""
    encoding, unknown = predictor.tokenizer(text, add_special_tokens=False), predictor.tokenizer.unk_token
    tokens, numbers = encoding.tokens(), encoding.word_ids()
    read = {number: [token for token, other in zip(tokens, numbers) if other == number] for number in numbers}
    words = {number: text[slice(*encoding.word_to_chars(number))] for number in read}
    return {words[k]: " ".join(pieces) for k, pieces in read.items() if len(pieces) > 1 or unknown in pieces}


def swap_word(text: str, position: int, word: str) -> str:
    """The text with another word, or several, in place of its word number `position` (0 is the first).

    Raises ValueError where there is no such word, or nothing to put there.
    """
    words = text.split()
    if not 0 <= position < len(words):
        raise ValueError(f"{text!r} has no word number {position}; it has {len(words)}, the first is 0")
    if not word.strip():
        raise ValueError(f"nothing to put in place of {words[position]!r}; type a word")
    return " ".join([*words[:position], *word.split(), *words[position + 1 :]])


def words_of_kind(tokenizer, word: str) -> list[str]:
    """The vocabulary's other words of the same kind (words.KINDS: a colour for a colour); none for a word of grammar or
    of another vocabulary than RefShapes'."""
    kind = word_kind(word)
    return [] if kind == KINDS[-1] else sorted(w for w in tokenizer.get_vocab() if w != word and word_kind(w) == kind)


def _attention(predictor: Predictor, text: str) -> tuple[list[str], np.ndarray | None]:
    try:
        tokens, maps = phrase_attention(predictor, text)
    except ValueError:  # not every network has pixel-word attention
        return [], None
    finest = max(maps.values(), key=lambda attention: attention.shape[0] * attention.shape[1])
    shown = [k for k, token in enumerate(tokens) if token not in predictor.tokenizer.all_special_tokens]
    return [tokens[k] for k in shown], finest[..., shown]
