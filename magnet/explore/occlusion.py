"""Hide a word of a sentence, or take it out: does the mask change?

    predictor.set_image("picture.png")
    occlude(predictor, "the red star left of the ring")

A hidden word leaves [MASK] in its place, so the others stay where they were; a removed one leaves nothing, and they
move up. Few networks were trained with [MASK] (Mask Grounding's were), so a change by hiding alone may only say that it
is a strange word. The idea is that of erasure (Li, Monroe and Jurafsky, 2016), the measure our choice.
"""

import numpy as np
import pandas as pd
from torch import Tensor

from magnet.evaluate import resize_logits
from magnet.metrics import intersection_union, rle_encode
from magnet.predictor import Predictor

WAYS = ("hidden", "removed")


def occlude(predictor: Predictor, text: str, truth: np.ndarray | None = None) -> pd.DataFrame:
    """The answers to a text about the predictor's picture without each of its words; all are asked in one batch.

    One row for the whole text (word "", way "whole"), then two a word, in turn: word, position (0 is the first), way
    ("hidden", "removed"), text (as it was asked), same (IoU with the whole text's mask, 0 to 1; two empty masks agree),
    iou (with `truth`, (H,W) bool; NaN without), area (share of the picture) and rle (the mask).
    Words are what stands between spaces, as far as the network reads: it takes `data.num_tokens` tokens. Raises
    ValueError for a text without a word, RuntimeError before `set_image`.
    """
    table = _variants(text, predictor.tokenizer, predictor.data.num_tokens)
    logits = predictor.ask(table["text"].tolist())
    masks = (_mask(one, predictor) for one in logits)  # one at a time: may be large
    whole, rows = None, []
    for mask in masks:
        whole = mask if whole is None else whole
        score = np.nan if truth is None else iou(mask, truth)
        rows.append({"same": iou(mask, whole), "iou": score, "area": mask.mean(), "rle": rle_encode(mask)})
    return table.join(pd.DataFrame(rows))


def _mask(logits: Tensor, predictor: Predictor) -> np.ndarray:
    """(h,w) -> bool (H,W)."""
    return (resize_logits(logits[None], predictor.size)[0] > 0).cpu().numpy()


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """IoU, 0 to 1, of two bool masks (H,W); 1 where both are empty."""
    inside, either = intersection_union(one, other)
    return float(inside / either) if either else 1.0


def _variants(text: str, tokenizer, num_tokens: int) -> pd.DataFrame:
    words, read = text.split(), num_tokens - 2  # [CLS] and [SEP] stand around them
    if not words:
        raise ValueError(f"{text!r} holds no word; say what to look for")
    rows = [("", -1, "whole", text)]
    for position, word in enumerate(words):
        if read <= 0:  # what is cut off changes nothing
            break
        pieces = [tokenizer.mask_token] * len(tokenizer.tokenize(word))
        read -= len(pieces)
        for way, instead in zip(WAYS, (pieces, [])):
            rows.append((word, position, way, " ".join([*words[:position], *instead, *words[position + 1 :]])))
    return pd.DataFrame(rows, columns=["word", "position", "way", "text"])
