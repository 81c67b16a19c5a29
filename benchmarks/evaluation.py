"""What evaluation costs: sentences of one picture read together against one by one, and all that is not the network.

python benchmarks/evaluation.py --output results/tables/evaluation.csv        (a minute, with nothing else running)

Together against alone: RefShapes val with the shipped weights. Alone, every expression has its own picture, decoded and
looked at anew, in a batch of one. Rounds take turns; the ratio is the median of the rounds' ratios.
Beyond the network: per expression of a picture of 480 x 640, network at 480 px: logits to the picture's own size, mask,
intersection and union, run lengths.
"""

import time
from importlib import import_module

import numpy as np
import pandas as pd
import torch
from measured import parser, report

import magnet
from magnet.data import add_token_tags, load_tokenizer, read_refer, select_split
from magnet.data.dataset import PicturesDataset
from magnet.metrics import PROTOCOLS, rle_encode

RULE, evaluator = PROTOCOLS["original"], import_module("magnet.evaluate")
EXPRESSIONS, ROUNDS = 252, 5


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


def beyond_the_network(batch_size: int = 16) -> float:
    """Seconds an expression."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(batch_size, 1, 6, 6, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, (120, 120), mode="bicubic")[:, 0] - 1  # blobs, as masks are
    truth = rle_encode((evaluator.resize_logits(logits, (480, 640))[0] > 0).numpy())
    rows = pd.DataFrame({"height": [480] * batch_size, "width": [640] * batch_size, "rle": [truth] * batch_size})
    squashed = np.zeros((batch_size, 480, 480), bool)
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        evaluator._score_batch(logits, rows, squashed, RULE)
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:])) / batch_size


def main() -> None:
    options = parser(__doc__).parse_args()
    together, alone, ratio = together_and_alone()
    report(
        [
            ("read together, an expression", 1000 * together, "ms"),
            ("one expression at a time", 1000 * alone, "ms"),
            ("together over alone, speed", ratio, "times"),
            ("beyond the network, an expression at 480", 1000 * beyond_the_network(), "ms"),
        ],
        options.output,
    )


if __name__ == "__main__":
    main()
