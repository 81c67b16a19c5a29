"""Looking inside a trained network and at what it answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from magnet.data import encode
from magnet.data.dataset import read_image
from magnet.evaluate import evaluation_mode
from magnet.metrics import intersection_union, rle_decode
from magnet.models.attention import PixelWordAttention
from magnet.predictor import Predictor
from magnet.workbench.plots import Example

SHARES = {"successes": (0.75, 1.0), "typical": (0.375, 0.625), "failures": (0.0, 0.25)}  # of the rows ordered by IoU


@torch.no_grad()
def word_attention(model: nn.Module, images: Tensor, token_ids: Tensor, token_mask: Tensor) -> dict[str, Tensor]:
    """What share of its attention each position gives to each token, in every pixel-word attention of a model.

    Args: images (B,3,H,W), ImageNet-normalised; token_ids, token_mask (B,T).
    Returns module name ("fusions.0" is LAVT's first stage) -> (B,h,w,T), float32, 0 to 1, summing to 1 over T.
    Raises ValueError for a model without a PixelWordAttention. The model is left as it was.
    """
    modules = {name: part for name, part in model.named_modules() if isinstance(part, PixelWordAttention)}
    if not modules:
        raise ValueError(f"{type(model).__name__} has no PixelWordAttention whose attention could be shown")
    inputs: dict[str, tuple] = {}
    hooks = [
        part.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given}))
        for name, part in modules.items()
    ]
    try:
        with evaluation_mode(model):
            model(images, token_ids, token_mask)
            return {name: _as_map(modules[name].attention(*given), given[0]) for name, given in inputs.items()}
    finally:
        for hook in hooks:
            hook.remove()


def _as_map(attention: Tensor, pixels: Tensor) -> Tensor:
    """(B,N,T) and the pixels (B,C,h,w) it was read with -> (B,h,w,T)."""
    return attention.float().unflatten(1, tuple(pixels.shape[-2:])).cpu()


def phrase_attention(predictor: Predictor, text: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """`word_attention` for one phrase on the predictor's picture: its T tokens, and module name -> (h,w,T)."""
    token_ids, token_mask = encode(predictor.tokenizer, [text], predictor.data.num_tokens, predictor.data.words)
    maps = word_attention(
        predictor.model, predictor.image, token_ids.to(predictor.device), token_mask.to(predictor.device)
    )
    num_tokens = int(token_mask.sum())
    tokens = predictor.tokenizer.convert_ids_to_tokens(token_ids[0, :num_tokens].tolist())
    return tokens, {name: attention[0, ..., :num_tokens].numpy() for name, attention in maps.items()}


def choose_examples(results: pd.DataFrame, num_each: int = 8) -> dict[str, list[int]]:
    """sent_ids of "successes", "typical" and "failures", always the same ones for the same table.

    One expression is drawn per image; `num_each` are then taken at even steps of rank from the best quarter by IoU,
    the middle quarter and the worst quarter, so a gallery shows the quarter and not its extreme.
    """
    ordered = results.sort_values("sent_id").sample(frac=1, random_state=0).drop_duplicates("image_id")
    ordered = ordered.sort_values(["iou", "sent_id"])["sent_id"].to_numpy()
    chosen = {}
    for name, (low, high) in SHARES.items():
        ranks = np.linspace(low * (len(ordered) - 1), high * (len(ordered) - 1), num_each).round().astype(int)
        chosen[name] = ordered[np.unique(ranks)].tolist()
    chosen["successes"].reverse()  # the best one first
    return chosen


def load_examples(
    expressions: pd.DataFrame, sent_ids: Sequence[int], results: pd.DataFrame | None = None
) -> list[Example]:
    """Picture, truth and sentence of some expressions, in the order of `sent_ids`, with the answers where given.

    Args: expressions: from `read_refer`; results: from `evaluate` on them; without, the predictions are empty.
    Raises KeyError for a sent_id that is missing.
    """
    examples = [_unanswered(expressions, sent_id) for sent_id in sent_ids]
    if results is None:
        return examples
    answers = results.set_index("sent_id").loc[list(sent_ids)]
    return [
        replace(example, prediction=rle_decode(rle, *example.truth.shape), iou=float(iou))
        for example, rle, iou in zip(examples, answers["rle"], answers["iou"])
    ]


def answer(predictor: Predictor, expressions: pd.DataFrame, sent_id: int, text: str | None = None) -> Example:
    """The predictor's answer to one expression, or to another `text` about its picture; the IoU is to its truth."""
    example = _unanswered(expressions, sent_id)
    predictor.set_image(example.image)
    mask, _ = predictor.predict(text or example.text)
    inside, either = intersection_union(mask, example.truth)
    return replace(example, prediction=mask, text=text or example.text, iou=float(inside / either))


def _unanswered(expressions: pd.DataFrame, sent_id: int) -> Example:
    row = expressions.set_index("sent_id").loc[sent_id]
    size = int(row["height"]), int(row["width"])
    image = read_image(Path(expressions.attrs["images"]) / row["file"], *size)
    truth = rle_decode(row["rle"], *size)
    return Example(image=np.asarray(image), truth=truth, prediction=np.zeros(size, bool), text=row["text"])
