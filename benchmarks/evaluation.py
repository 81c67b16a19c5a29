"""What evaluation costs: sentences of one picture read together against one by one, and all that is not the network.

python benchmarks/evaluation.py --output results/tables/evaluation.csv        (three minutes, with nothing else running)

Together against alone: RefShapes val with the shipped weights. Alone, every expression has its own picture, decoded and
looked at anew, in a batch of one. Rounds take turns; the ratio is the median of the rounds' ratios.
Beyond the network: a whole pass with a network that answers at once, on JPEG files of 480 x 640 with six or nine
sentences each, three an object, network at 480 px: reading and squashing pictures, tokens, truths, logits to the
picture's own size, run lengths, intersection and union, table.
"""

import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from measured import parser, report
from photos import blobs, make_photos

import magnet
from magnet.config import DataConfig
from magnet.data import add_token_tags, load_tokenizer, read_refer, select_split
from magnet.data.dataset import PicturesDataset
from magnet.metrics import PROTOCOLS
from magnet.models.base import ReferringNetwork
from magnet.workbench.benchmark import offline

RULE, evaluator = PROTOCOLS["original"], import_module("magnet.evaluate")
EXPRESSIONS, PHOTOS, ROUNDS = 252, 24, 5


@torch.no_grad()
def pass_seconds(
    model: torch.nn.Module, table: pd.DataFrame, data: DataConfig, batch_size: int, precision: str = "float32",
    alone: bool = False,
) -> float:  # fmt: skip
    """Seconds an expression of one pass over the table, in batches of `batch_size`, or alone, each with its picture."""
    tokenizer = load_tokenizer("refshapes")
    table = add_token_tags(table, tokenizer, data.num_tokens).reset_index(drop=True)
    dataset = PicturesDataset(table, data, tokenizer, batch_size, with_masks=False)
    if alone:
        dataset.batches = [[np.array([row])] for row in range(len(table))]
    began = time.perf_counter()
    evaluator._score_batches(model, evaluator._loader(dataset, data), table, [RULE], precision, False)
    return (time.perf_counter() - began) / len(table)


def together_and_alone() -> tuple[float, float, float]:
    """Seconds an expression each way, and the ratio of the second to the first."""
    run = magnet.runs.find("refshapes-tiny")
    data, model = replace(run.config.data, num_workers=0), run.load_model()
    table = select_split(read_refer(data.root), "val").iloc[:EXPRESSIONS]
    rounds = [
        [pass_seconds(model, table, data, 200), pass_seconds(model, table, data, 1, alone=True)]
        for _ in range(ROUNDS + 1)
    ]
    rounds = np.array(rounds[1:])  # the first is not counted
    return *np.median(rounds, axis=0), float(np.median(rounds[:, 1] / rounds[:, 0]))


def full_size() -> tuple[float, float]:
    """Seconds an expression each way, of MagNet with Swin-B and random weights on two pictures of 480 x 640, once."""
    config = magnet.recipe("magnet_base")
    model = magnet.build_model(offline(config.model)).eval()
    with TemporaryDirectory() as folder:
        photos, data = make_photos(Path(folder), 2), replace(config.data, num_workers=0)
        return pass_seconds(model, photos, data, 8), pass_seconds(model, photos.iloc[::3], data, 1, alone=True)


class NoNetwork(ReferringNetwork):
    """Answers at once, with logits of a quarter of the picture's side."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.logits = blobs(16, (120, 120), torch.Generator().manual_seed(0))

    def look(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images]

    def read(self, seen: list, token_ids: torch.Tensor, *_) -> dict:
        return {"sentences": token_ids}

    def decode(self, features: dict) -> dict:
        return {"mask_logits": self.logits[: len(features["sentences"])]}


def beyond_the_network(rule: str) -> float:
    """Seconds an expression, from the files to the table."""
    data, times = DataConfig(num_workers=0), []
    with TemporaryDirectory() as folder:
        photos = make_photos(Path(folder), PHOTOS)
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            rules = [PROTOCOLS[rule]]
            evaluator.score_expressions(NoNetwork(), photos, data, "refshapes", rules, progress=False)
            times.append(time.perf_counter() - began)
    return float(np.median(times[1:])) / len(photos)


def main() -> None:
    options = parser(__doc__).parse_args()
    together, alone, ratio = together_and_alone()
    large, large_alone = full_size()
    report(
        [
            ("read together, an expression", 1000 * together, "ms"),
            ("one expression at a time", 1000 * alone, "ms"),
            ("together over alone, speed", ratio, "times"),
            ("Swin-B on the CPU, read together, an expression", large, "s"),
            ("Swin-B on the CPU, one expression at a time", large_alone, "s"),
            ("Swin-B on the CPU, together over alone, speed", large_alone / large, "times"),
            ("beyond the network, an expression at 480", 1000 * beyond_the_network("original"), "ms"),
            ("the same under the protocol paper", 1000 * beyond_the_network("paper"), "ms"),
        ],
        options.output,
    )


if __name__ == "__main__":
    main()
