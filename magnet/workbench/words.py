"""What can be read from a language backbone's words: hidden words guessed from text alone, and which words lie close.

    network = TextOnly(language)                       # a language backbone without a picture
    grounding = MaskGrounding(GroundingConfig(context="text", num_layers=1), network, tokenizer)
    train_on_text(grounding, network, draw_sentences(1500, tokenizer), num_steps=500)
    guess_each_word(grounding, network, draw_sentences(100, tokenizer, seed=1), tokenizer)

Masked words: Devlin, Chang, Lee and Toutanova, *BERT*, 2019. The sentences are RefShapes' own.
"""

from functools import lru_cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magnet.data import encode
from magnet.evaluate import evaluation_mode
from magnet.losses.grounding import MaskGrounding
from magnet.models.language import LanguageBackbone
from magnet.refshapes import sample
from magnet.refshapes.scene import COLOURS, SHAPES, TEXTURES
from magnet.refshapes.words import NOUNS_AND_ADJECTIVES, RANKS
from magnet.workbench.probes import accuracy

PLACE = """left right top bottom middle upper lower central centre leftmost rightmost topmost bottommost highest lowest
    above over below under beneath"""
SENTENCES_AT_ONCE = 512  # in a forward pass without gradients
SYNONYMS = tuple(  # words of one token that RefShapes uses for the same thing
    words
    for words in (tuple(form for form in forms if " " not in form) for forms in NOUNS_AND_ADJECTIVES.values())
    if len(words) > 1
)
_PLACES = (
    "left right top bottom middle upper lower central centre above over below under beneath beside next by near nearer "
    "nearest close closer leftmost rightmost topmost bottommost highest lowest furthest farthest edge corner side hand"
)
_SIZES = "smaller larger bigger smallest largest littlest biggest"
KINDS = ("colour", "shape", "texture", "size", "place", "rank", "grammar")


def word_classes() -> dict[str, str]:
    """RefShapes' content words -> "colour", "shape", "texture", "size" or "place". "Thing" and its like are none."""
    values = {"colour": tuple(COLOURS), "shape": SHAPES, "texture": TEXTURES, "size": ("small", "large")}
    named = {
        name: kind for kind, concepts in values.items() for concept in concepts
        for name in NOUNS_AND_ADJECTIVES[concept] if " " not in name
    }  # fmt: skip
    return named | dict.fromkeys(PLACE.split(), "place")


@lru_cache
def _kinds() -> dict[str, str]:
    """Every content word of RefShapes' common vocabulary, with its kind."""
    known = word_classes()
    found = dict.fromkeys(_PLACES.split(), "place") | dict.fromkeys(_SIZES.split(), "size")
    found |= {word: "rank" for forms in RANKS.values() for word in forms}
    for name, forms in NOUNS_AND_ADJECTIVES.items():  # also "bright" of "bright red"; "thing" stands for a shape
        found |= {word: known.get(name, "shape") for form in forms for word in form.split()}
    return found


def word_kind(token: str) -> str:
    """Which of KINDS a token of the shipped vocabulary is: a word's kind, or "grammar" for all that has none."""
    return _kinds().get(token, "grammar")


class Sentences(NamedTuple):
    """texts: N sentences; scene: (N,) int64, the scene each was written for; token_ids, token_mask: (N,T) int64."""

    texts: list[str]
    scene: np.ndarray
    token_ids: Tensor
    token_mask: Tensor


class TextOnly(nn.Module):
    """What `MaskGrounding` asks of a network, for a language backbone by itself: its pixels are one zero each."""

    def __init__(self, language: LanguageBackbone, channels: int = 1):
        super().__init__()
        self.language, self.vision = language, SimpleNamespace(channels=[channels])

    def encode(self, images: Tensor, token_ids: Tensor, token_mask: Tensor) -> dict:
        blank = images.new_zeros(len(token_ids), self.vision.channels[-1], 1, 1)
        return {"word_features": self.language(token_ids, token_mask), "pixel_features": blank}


def draw_sentences(num_scenes: int, tokenizer, seed: int = 0, num_tokens: int = 20) -> Sentences:
    """Up to six training sentences for each of so many fresh RefShapes scenes; no picture is kept."""
    texts, scene = [], []
    for number in range(num_scenes):
        found = sample(seed, number, "train", image_size=8).expressions
        texts += [one.text for one in found]
        scene += [number] * len(found)
    return Sentences(texts, np.array(scene), *encode(tokenizer, texts, num_tokens))


def find_uses(sentences: Sentences, word: str, uses: dict[str, str]) -> pd.Series:
    """How a word is used: row of `sentences` -> name of the use, for rows that hold it once and fit one pattern alone.

    uses: regular expressions by name, looked for anywhere in the sentence.
    """
    texts = pd.Series(sentences.texts)
    texts = texts[texts.str.count(rf"\b{word}\b") == 1]
    fits = pd.DataFrame({use: texts.str.contains(pattern) for use, pattern in uses.items()})
    return fits[fits.sum(axis=1) == 1].idxmax(axis=1)


@torch.no_grad()
def word_vectors(
    language: LanguageBackbone, sentences: Sentences, rows: np.ndarray, token_id: int
) -> dict[str, Tensor]:
    """The vectors (N,D) of one token in N sentences that hold it once, before the first layer and after the last."""
    ids, mask = sentences.token_ids[rows], sentences.token_mask[rows]
    here = ids == token_id
    with evaluation_mode(language):
        return {"before the layers": language.embed(ids)[here], "after the layers": language(ids, mask)[here]}


def text_batch(token_ids: Tensor, token_mask: Tensor) -> dict[str, Tensor]:
    """A batch as `MaskGrounding` reads it, without pictures: token ids and mask (B,T); images and masks (B,1,1,1) and
    (B,1,1) of nothing."""
    num = len(token_ids)
    blank = {"images": torch.zeros(num, 1, 1, 1), "masks": torch.ones(num, 1, 1)}
    return {**blank, "token_ids": token_ids, "token_mask": token_mask}


def train_on_text(
    grounding: MaskGrounding, network: nn.Module, sentences: Sentences, num_steps: int, batch_size: int = 64,
    lr: float = 1e-3, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Train a network's words, and the parts that guess them, on hidden words of sentences without pictures.

    Returns one row a step: step, loss, and the percent of that step's hidden words that were guessed.
    """
    torch.manual_seed(seed)
    parameters = list(nn.ModuleList([network, grounding]).parameters())  # each once, whoever shares it
    optimizer = torch.optim.AdamW(parameters, lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=max(2, num_steps), pct_start=0.1, cycle_momentum=False
    )
    log = []
    network.train()
    grounding.train()
    for step in range(1, num_steps + 1):
        rows = torch.randint(len(sentences.texts), (batch_size,))
        batch = text_batch(sentences.token_ids[rows], sentences.token_mask[rows])
        loss, numbers = grounding(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        log.append({"step": step, "loss": loss.item(), "accuracy": 100 * float(numbers["grounding_accuracy"])})
    return pd.DataFrame(log)


@torch.no_grad()
def guess_each_word(grounding: MaskGrounding, network: nn.Module, sentences: Sentences, tokenizer) -> pd.DataFrame:
    """Hide every token of every sentence once, alone, and let it be guessed from the sentence's rest.

    One row a token: sentence (row of `sentences`), scene, position, token, kind (`word_kind`), guess, probability
    (0 to 1, that the token itself was given) and right.
    """
    candidates = grounding.hide.candidates(sentences.token_ids, sentences.token_mask)
    rows, positions = candidates.nonzero(as_tuple=True)
    parts = []
    with evaluation_mode(network), evaluation_mode(grounding):
        for some, places in zip(rows.split(SENTENCES_AT_ONCE), positions.split(SENTENCES_AT_ONCE)):
            hidden = F.one_hot(places, sentences.token_ids.shape[1]).bool()
            ids = sentences.token_ids[some]
            batch = text_batch(ids, sentences.token_mask[some])
            logits = grounding.predict(network, batch, (ids.masked_fill(hidden, grounding.hide.mask_id), hidden))
            parts.append((logits.argmax(1), logits.softmax(1).gather(1, ids[hidden][:, None])[:, 0]))
    guess, probability = (torch.cat(part) for part in zip(*parts))
    truth = sentences.token_ids[rows, positions]
    return pd.DataFrame({
        "sentence": rows, "scene": sentences.scene[rows], "position": positions,
        "token": tokenizer.convert_ids_to_tokens(truth), "guess": tokenizer.convert_ids_to_tokens(guess),
        "probability": probability, "right": guess == truth,
    }).assign(kind=lambda table: table["token"].map(word_kind))  # fmt: skip


def nearest_words(language: LanguageBackbone, tokenizer) -> pd.DataFrame:
    """For each word of SYNONYMS the word whose embedding points most nearly the same way.

    The mean of all embeddings is taken off first. Looked for among all colour, shape, texture and size words. One row a
    word: word, set (row of SYNONYMS), nearest, is_synonym, same_kind.
    """
    pool = [token for token in tokenizer.get_vocab() if word_kind(token) in KINDS[:4]]
    vectors = language.encoder.get_input_embeddings().weight.detach()[tokenizer.convert_tokens_to_ids(pool)]
    vectors = F.normalize(vectors - vectors.mean(0), dim=1)
    nearest = (vectors @ vectors.T).fill_diagonal_(-torch.inf).argmax(1)
    rows = []
    for number, words in enumerate(SYNONYMS):
        for word in words:
            other = pool[nearest[pool.index(word)]]
            rows.append({"word": word, "set": number, "nearest": other, "is_synonym": other in words,
                         "same_kind": word_kind(other) == word_kind(word)})  # fmt: skip
    return pd.DataFrame(rows)


def accuracy_by_kind(guesses: pd.DataFrame) -> pd.DataFrame:
    """`accuracy` with its interval over scenes for all tokens and for each of KINDS, from `guess_each_word`."""
    parts = {"all": guesses} | {kind: guesses[guesses["kind"] == kind] for kind in KINDS}
    rows = {kind: accuracy(part["right"], part["scene"]) for kind, part in parts.items() if len(part)}
    return pd.DataFrame.from_dict(rows, orient="index")


@torch.no_grad()
def top_guesses(
    grounding: MaskGrounding, network: nn.Module, sentence: str, tokenizer, num: int = 5
) -> list[tuple[str, float]]:
    """The likeliest words, with their probabilities, for the one [MASK] that is written in a sentence."""
    token_ids, token_mask = encode(tokenizer, [sentence])
    hidden = token_ids == tokenizer.mask_token_id
    with evaluation_mode(network), evaluation_mode(grounding):
        logits = grounding.predict(network, text_batch(token_ids, token_mask), (token_ids, hidden))
    probabilities, ids = logits.softmax(1)[0].topk(num)
    return list(zip(tokenizer.convert_ids_to_tokens(ids), probabilities.tolist()))
