"""Where pixels and sentences lie in the space of the alignment losses, as numbers.

before = embed(with_fresh_parts(run, AlignmentConfig()), run.config)
after = embed(with_trained_parts(aligned), aligned.config)
measure({"before": before, "after": after})         # retrieval, cosines and modality gap, with intervals
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from magnet import runs
from magnet.config import AlignmentConfig, Config
from magnet.data import collate, load_tokenizer, read_refer, select_split
from magnet.data.dataset import ExpressionDataset
from magnet.evaluate import evaluation_mode
from magnet.losses.alignment import covered, unit
from magnet.objective import Objective
from magnet.statistics import LEVEL, bootstrap, image_counts

MEASURES = {  # name -> column of `describe`, and what it is multiplied by
    "top-1 (%)": ("top1", 100), "chance (%)": ("chance", 100), "top-1, another's sentence (%)": ("strangers", 100),
    "average precision (%)": ("average_precision", 100), "cosine within": ("within", 1),
    "cosine between": ("between", 1),
}  # fmt: skip
GAP = "modality gap"


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Of N expressions, each with its picture as the network sees it while it reads that sentence.

    pixels: (N,P,C) float32, the P positions of mask_features row by row, of length 1; sentences: (N,C), of length 1;
    inside: (N,P) bool, positions the object covers by more than half; sent_ids, image_ids: (N,); size: rows, columns.
    """

    pixels: np.ndarray
    sentences: np.ndarray
    inside: np.ndarray
    sent_ids: np.ndarray
    image_ids: np.ndarray
    size: tuple[int, int]

    @property
    def similarity(self) -> np.ndarray:
        """(N,P): cosine of each position and its sentence, -1 to 1."""
        return np.einsum("npc,nc->np", self.pixels, self.sentences)

    def with_strangers(self) -> "Embeddings":
        """The same pixels beside the sentence of the next picture."""
        images, first = np.unique(self.image_ids, return_index=True)
        stranger = first[(np.searchsorted(images, self.image_ids) + 1) % len(images)]
        return replace(self, sentences=self.sentences[stranger])


def with_fresh_parts(run: runs.Run, alignment: AlignmentConfig, seed: int = 0) -> Objective:
    """The run's network with an alignment part whose projection of the sentence is still random."""
    torch.manual_seed(seed)
    objective = Objective(replace(run.config, alignment=alignment))
    runs.load_weights(objective.model, run.weights)
    return objective.eval()


def with_trained_parts(run: runs.Run) -> Objective:
    """The run's network and training-only parts, both as its last step left them: they are in its checkpoint alone."""
    objective, tensors = Objective(run.config), runs.read_tensors(run.checkpoint)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")}
    runs.fill(objective, kept, run.checkpoint)
    return objective.eval()


@torch.no_grad()
def embed(
    objective: Objective, config: Config, num_expressions: int | None = None, split: str = "val", batch_size: int = 64
) -> Embeddings:
    """Embeddings of a split's expressions, or of `num_expressions` evenly spread ones.

    Raises ValueError where `objective` has no projection of the sentence (alignment off, or pixel_text 0).
    """
    alignment, data = objective.alignment, config.data
    if alignment is None or alignment.text is None:
        raise ValueError("no projection of the sentence: set config.alignment, with pixel_text above 0")
    table = select_split(read_refer(data.root, data.name, data.split_by, data.polygon_overlap), split)
    if num_expressions:
        table = table.iloc[np.linspace(0, len(table) - 1, min(num_expressions, len(table))).round().astype(int)]
    tokenizer = load_tokenizer(config.model.language.vocabulary)
    dataset, parts = ExpressionDataset(table, data, tokenizer, training=False), []
    with evaluation_mode(objective):
        for start in range(0, len(dataset), batch_size):
            batch = collate([dataset[i] for i in range(start, min(start + batch_size, len(dataset)))])
            outputs = objective.model(batch["images"], batch["token_ids"], batch["token_mask"])
            pixels = unit(outputs["mask_features"].flatten(2).transpose(1, 2))
            parts.append((pixels, unit(alignment.text(alignment.sentence(outputs))), covered(outputs, batch)))
    pixels, sentences, within = (torch.cat(part).numpy() for part in zip(*parts))
    return Embeddings(
        pixels=pixels, sentences=sentences, inside=within, sent_ids=table["sent_id"].to_numpy(),
        image_ids=table["image_id"].to_numpy(), size=tuple(outputs["mask_features"].shape[-2:]),
    )  # fmt: skip


def describe(embeddings: Embeddings) -> pd.DataFrame:
    """One row per expression: where its object's positions lie, and how well its sentence finds them in its picture.

    top1: whether the position most similar to the sentence is the object's; average_precision (0 to 1) of the object's
    positions, ranked by that similarity; chance: the object's share of the positions, which is what blind ranking gives
    for top1, and about what it gives for average_precision. within, between: mean cosine of two of the object's
    positions, and of one of them with another one. Objects of fewer than two positions are left out.
    """
    kept = _has_object(embeddings)
    inside, pixels = embeddings.inside[kept], embeddings.pixels[kept]
    order = np.argsort(-embeddings.similarity[kept], axis=1, kind="stable")
    ranked = np.take_along_axis(inside, order, axis=1)  # (N,P), the most similar position first
    precision = ranked.cumsum(1) / np.arange(1, ranked.shape[1] + 1)
    own, others = (np.einsum("np,npc->nc", where, pixels) for where in (inside, ~inside))  # sums of vectors
    num, num_others = inside.sum(1), (~inside).sum(1)
    return pd.DataFrame({
        "sent_id": embeddings.sent_ids[kept], "image_id": embeddings.image_ids[kept], "top1": ranked[:, 0],
        "average_precision": (precision * ranked).sum(1) / num, "chance": inside.mean(1),
        "within": ((own**2).sum(1) - num) / (num * (num - 1)), "between": (own * others).sum(1) / (num * num_others),
    })  # fmt: skip


def _has_object(embeddings: Embeddings) -> np.ndarray:
    """(N,) bool: two positions inside or more, so that every measure is defined, and one outside."""
    return (embeddings.inside.sum(1) > 1) & ~embeddings.inside.all(1)


def modality_gap(embeddings: Embeddings, num_draws: int = 0, seed: int = 0) -> tuple[float, np.ndarray]:
    """Distance of the object's mean pixel from the mean sentence (0 to 2), and the same for resampled images.

    The measure is Liang et al.'s ("Mind the Gap", NeurIPS 2022): vectors of length 1, the mean of each kind, the
    distance between the two. Every expression weighs the same, however large its object.
    """
    kept = _has_object(embeddings)
    weight = embeddings.inside[kept] / embeddings.inside[kept].sum(1, keepdims=True)  # (N,P)
    apart = np.einsum("np,npc->nc", weight, embeddings.pixels[kept]) - embeddings.sentences[kept]  # (N,C)
    images, position = np.unique(embeddings.image_ids[kept], return_inverse=True)
    sums = np.zeros((len(images), apart.shape[1]))
    np.add.at(sums, position, apart)
    num = np.bincount(position)
    draws = [(counts @ sums) / (counts @ num)[:, None] for counts in image_counts(len(images), num_draws, seed)]
    drawn = np.concatenate([np.empty((0, apart.shape[1])), *draws])
    return float(np.linalg.norm(apart.mean(0))), np.linalg.norm(drawn, axis=1)


def measure(states: Mapping[str, Embeddings], num_draws: int = 10_000) -> pd.DataFrame:
    """One row per state and measure: value, low, high, and by how much it differs from the first state's, paired.

    MEASURES of `describe` (shares in percent, cosines as they are), top-1 with the sentence of another picture, and the
    modality gap. Intervals are 95 %, resampling images.
    """
    ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    drawn = {name: _draws(embeddings, num_draws) for name, embeddings in states.items()}
    first, rows = next(iter(drawn.values())), []
    for name, measures in drawn.items():
        for what, (value, draws) in measures.items():
            change, (low, high) = draws - first[what][1], np.quantile(draws, ends)
            rows.append({"state": name, "measure": what, "value": value, "low": low, "high": high,
                         "change": value - first[what][0],
                         **dict(zip(("change_low", "change_high"), np.quantile(change, ends)))})  # fmt: skip
    return pd.DataFrame(rows)


def _draws(embeddings: Embeddings, num_draws: int) -> dict[str, tuple[float, np.ndarray]]:
    """Measure -> its value, and its values for resampled images; every state is given the same images."""
    table = describe(embeddings).assign(strangers=describe(embeddings.with_strangers())["top1"])
    every = np.ones(len(table))
    terms = [(table[column].to_numpy(float) * scale / 100, every) for column, scale in MEASURES.values()]
    draws = bootstrap(table["image_id"], terms, num_draws)
    values = {name: (scale * table[column].mean(), draw)
              for (name, (column, scale)), draw in zip(MEASURES.items(), draws.T)}  # fmt: skip
    return values | {GAP: modality_gap(embeddings, num_draws)}


def principal_plane(embeddings: Embeddings, num: int = 150, seed: int = 0) -> pd.DataFrame:
    """The two directions along which a state's points differ most: x, y and kind of each point.

    Of `num` expressions: one position inside the object ("object"), one outside ("others") and the "sentence".
    attrs["explained"] is the share (0 to 1) of the points' variance in this plane.
    """
    generator = np.random.default_rng(seed)
    kept = generator.permutation(np.flatnonzero(_has_object(embeddings)))[:num]
    draw = generator.random(embeddings.inside[kept].shape)
    own, other = (np.where(where, draw, -1).argmax(1) for where in (embeddings.inside[kept], ~embeddings.inside[kept]))
    points = {"object": embeddings.pixels[kept, own], "others": embeddings.pixels[kept, other],
              "sentence": embeddings.sentences[kept]}  # fmt: skip
    plane = on_plane(np.concatenate(list(points.values())))
    return plane.assign(kind=np.repeat(list(points), len(kept)))


def on_plane(points: np.ndarray) -> pd.DataFrame:
    """x, y of N points (N,D) along the two directions in which they differ most (principal components); attrs
    "explained": the share of their variance, 0 to 1, in this plane."""
    _, lengths, axes = np.linalg.svd(points - points.mean(0), full_matrices=False)
    table = pd.DataFrame((points - points.mean(0)) @ axes[:2].T, columns=["x", "y"])
    table.attrs["explained"] = float((lengths[:2] ** 2).sum() / (lengths**2).sum())
    return table
