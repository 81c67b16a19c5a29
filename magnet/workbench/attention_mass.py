"""How much of the reading of a word is done by the pixels of the object that is meant?

    table = attention_inside(magnet.load("refshapes-tiny"), select_split(read_refer("data"), "val"))
    summarize_attention(table)          # by stage and kind of word, with 95 % intervals over images

In pixel-word attention every pixel shares out 1 over the words. Here that is turned round: of all that the pixels of a
picture give to one word, the share that comes from pixels of the object. With attention that does not look at the
picture this is the object's share of the area, so `lift`, the ratio of the two, is 1; at 3 an object's pixel reads the
word three times as much as the average pixel.

What it cannot mean. A pixel must give its 1 to something: a word gains inside the object when other words lose there,
and [CLS] and [SEP] take what no word wants. A word that names another object ("the ring" of "the star left of the
ring") should be read elsewhere, so low is not bad. And what is read may be left unused further on: attention is not an
explanation (Jain and Wallace, 2019). Whether the words are used, counterfactuals.py asks.
"""

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from magnet.data import collate
from magnet.data.dataset import ExpressionDataset
from magnet.evaluate import progress_bar
from magnet.predictor import Predictor
from magnet.workbench.diagnostics import word_attention
from magnet.workbench.intervals import with_intervals
from magnet.workbench.words import word_kind

SPECIAL = "special"  # the kind of [CLS] and [SEP]; the others are words.KINDS, "grammar" being the fillers


def attention_inside(
    predictor: Predictor, expressions: pd.DataFrame, batch_size: int = 32, progress: bool = True
) -> pd.DataFrame:
    """One row for every stage of every word of every expression that has a target.

    Args: predictor: a network with pixel-word attention, as LAVT and MagNet have; expressions: of `read_refer`.
    Returns sent_id, image_id, stage (the module's name: "fusions.0" is LAVT's first stage), token (its place in the
    sentence), word, kind (words.KINDS, made for RefShapes' vocabulary, or "special"), inside (share of the word's
    attention from within the truth, 0 to 1) and area (the truth's share of the positions). The truth is averaged over
    each position's cell, so both also hold on coarse maps; a map of one position says nothing and is left out.
    Raises ValueError for a model without pixel-word attention.
    """
    expressions = expressions[expressions["area"] > 0].reset_index(drop=True)
    dataset = ExpressionDataset(expressions, predictor.data, predictor.tokenizer, training=False)
    parts = []
    with progress_bar(progress, total=len(dataset), unit="expr") as bar:
        for batch in DataLoader(dataset, batch_size, collate_fn=collate):
            parts.append(_inside(predictor, batch))
            bar.update(len(batch["sent_ids"]))
    table = pd.concat(parts, ignore_index=True)
    table.insert(1, "image_id", table["sent_id"].map(expressions.set_index("sent_id")["image_id"]))
    return table


def inside_shares(attention: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each token's attention from within the mask, (B,T), and the mask's share of the map, (B,).

    Args: attention (B,h,w,T), at least 0; masks (B,S,S), 0 to 1. A token that no position reads gets 0.
    """
    cover = F.adaptive_avg_pool2d(masks.float()[:, None], attention.shape[1:3])[:, 0]  # (B,h,w)
    read = attention / attention.sum((1, 2), keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)
    return torch.einsum("bhwt,bhw->bt", read, cover), cover.mean((1, 2))


def _inside(predictor: Predictor, batch: dict) -> pd.DataFrame:
    inputs = (batch[name].to(predictor.device) for name in ("images", "token_ids", "token_mask"))
    maps = word_attention(predictor.model, *inputs)
    rows, tokens = batch["token_mask"].nonzero(as_tuple=True)
    words = predictor.tokenizer.convert_ids_to_tokens(batch["token_ids"][rows, tokens].tolist())
    kinds = [SPECIAL if word in predictor.tokenizer.all_special_tokens else word_kind(word) for word in words]
    said = {"sent_id": batch["sent_ids"][rows], "token": tokens, "word": words, "kind": kinds}
    parts = []
    for stage, attention in maps.items():
        if attention.shape[1] * attention.shape[2] > 1:
            inside, area = inside_shares(attention, batch["masks"])
            parts.append(pd.DataFrame(said | {"inside": inside[rows, tokens], "area": area[rows]}).assign(stage=stage))
    return pd.concat(parts).sort_index(kind="stable")  # words in turn, each with its stages


def summarize_attention(table: pd.DataFrame, num_draws: int = 10_000) -> pd.DataFrame:
    """For every stage and kind of word, with 95 % intervals over images: value, low, high, n (words).

    Rows (stage, kind, what): "inside" and "area", means in percent; "lift", the ratio of the two means.
    """
    parts = {}
    for key, part in table.groupby(["stage", "kind"], sort=False):
        one = pd.Series(1.0, part.index)
        ratios = {"inside": (part["inside"], one), "area": (part["area"], one), "lift": (part["inside"], part["area"])}
        parts[key] = with_intervals(ratios, part["image_id"], num_draws)
        parts[key].loc["lift", ["value", "low", "high"]] /= 100  # a ratio, no percentage
    return pd.concat(parts, names=["stage", "kind", "what"])
