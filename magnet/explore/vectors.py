"""Do failures lie apart in what the network makes of a sentence and its picture?

    vectors = sentence_vectors(magnet.load("refshapes-tiny"), failures.truths)
    wrong_neighbours(vectors, failures.table)           # percent of neighbours that are wrong, with 95 % intervals

If wrong answers had wrong neighbours, one could tell from the inside that an answer is not to be trusted.
"""

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from magnet.data import collate
from magnet.data.dataset import ExpressionDataset
from magnet.evaluate import evaluation_mode
from magnet.predictor import Predictor
from magnet.workbench.intervals import with_intervals

NUM_NEIGHBOURS = 10


@torch.no_grad()
def sentence_vectors(predictor: Predictor, expressions: pd.DataFrame, batch_size: int = 64) -> np.ndarray:
    """(N,D) float32 of length 1: the mean of a sentence's word_features, which have met the picture.

    Args: expressions: of `read_refer`, N rows.
    """
    dataset = ExpressionDataset(expressions.reset_index(drop=True), predictor.data, predictor.tokenizer, training=False)
    parts = []
    with evaluation_mode(predictor.model):
        for batch in DataLoader(dataset, batch_size, collate_fn=collate):
            images, ids, mask = (batch[name].to(predictor.device) for name in ("images", "token_ids", "token_mask"))
            words = predictor.model.encode(images, ids, mask)["word_features"].float()
            mean = (words * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            parts.append(torch.nn.functional.normalize(mean, dim=1).cpu())
    return torch.cat(parts).numpy()


def wrong_neighbours(vectors: np.ndarray, table: pd.DataFrame, num_draws: int = 10_000) -> pd.DataFrame:
    """Of the 10 nearest sentences about other pictures, how many are answered wrongly: percent, with 95 % intervals
    over pictures, and n; rows "of wrong answers", "of right answers".

    Args: vectors: (N,D) of length 1; table: with error, of `read_failures`, N rows.
    """
    wrong, images = (table["error"] != "right").to_numpy(), table["image_id"].to_numpy()
    near = vectors @ vectors.T
    near[images[:, None] == images] = -np.inf
    nearest = np.argpartition(-near, NUM_NEIGHBOURS, axis=1)[:, :NUM_NEIGHBOURS]
    share = wrong[nearest].mean(1)
    ratios = {"of wrong answers": (share * wrong, wrong), "of right answers": (share * ~wrong, ~wrong)}
    found = with_intervals(ratios, table["image_id"], num_draws)
    return found.assign(n=[int(wrong.sum()), int((~wrong).sum())])
