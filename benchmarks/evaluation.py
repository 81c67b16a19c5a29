"""What evaluation costs: sentences of one picture read together against one by one, and all that is not the network.

python benchmarks/evaluation.py --output results/tables/evaluation.csv        (a minute, with nothing else running)

Together against alone: RefShapes val with the shipped weights. Alone, every expression has its own picture, decoded and
looked at anew, in a batch of one. Rounds take turns; the ratio is the median of the rounds' ratios.
Beyond the network: a whole pass with a network that answers at once, on JPEG files of 480 x 640 with seven sentences
each, network at 480 px: reading and squashing pictures, tokens, truths, logits to the picture's own size, run lengths,
intersection and union, table.
"""

import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from measured import parser, report
from photos import blobs, make_photos

import magnet
from magnet.data import add_token_tags, load_tokenizer, read_refer, select_split
from magnet.data.dataset import PicturesDataset
from magnet.metrics import PROTOCOLS

RULE, evaluator = PROTOCOLS["original"], import_module("magnet.evaluate")
EXPRESSIONS, PHOTOS, ROUNDS = 252, 24, 5


def together_and_alone() -> tuple[float, float, float]:
    """Seconds an expression each way, and the ratio of the second to the first."""
    run = magnet.runs.find("refshapes-tiny")
    data, model = run.config.data, run.load_model()
    table = select_split(read_refer(data.root), "val").iloc[:EXPRESSIONS]
    expressions = add_token_tags(table, tokenizer := load_tokenizer("refshapes"), data.num_tokens)
    grouped = PicturesDataset(expressions, data, tokenizer, batch_size=200)
    single = PicturesDataset(expressions, data, tokenizer, batch_size=1)
    single.batches = [[np.array([row])] for row in range(len(expressions))]

    def score(dataset: PicturesDataset) -> float:
        began = time.perf_counter()
        loader = evaluator._loader(dataset, magnet.config.DataConfig(num_workers=0))
        with torch.no_grad():
            evaluator._score_batches(model, loader, expressions, [RULE], "float32", False)
        return time.perf_counter() - began

    rounds = [[score(dataset) for dataset in (grouped, single)] for _ in range(ROUNDS + 1)]
    rounds = np.array(rounds[1:])  # the first is not counted
    return *np.median(rounds / len(expressions), axis=0), float(np.median(rounds[:, 1] / rounds[:, 0]))


class NoNetwork(torch.nn.Module):
    """Answers at once, with logits of a quarter of the picture's side."""

    def forward(self, images: torch.Tensor, token_ids: torch.Tensor, token_mask: torch.Tensor) -> dict:
        return {"mask_logits": self.logits[: len(images)]}

    logits = blobs(8, (120, 120), torch.Generator().manual_seed(0))


def beyond_the_network(rule: str) -> float:
    """Seconds an expression, from the files to the table."""
    data, times = replace(magnet.config.DataConfig(), num_workers=0), []
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
    report(
        [
            ("read together, an expression", 1000 * together, "ms"),
            ("one expression at a time", 1000 * alone, "ms"),
            ("together over alone, speed", ratio, "times"),
            ("beyond the network, an expression at 480", 1000 * beyond_the_network("original"), "ms"),
            ("the same under the protocol paper", 1000 * beyond_the_network("paper"), "ms"),
        ],
        options.output,
    )


if __name__ == "__main__":
    main()
