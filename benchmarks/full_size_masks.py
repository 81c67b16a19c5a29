"""How far a full-size MagNet's masks in bfloat16 are those in float32, on real pictures.

MAGNET_REAL_DATA=... python benchmarks/full_size_masks.py --output results/tables/full_size_masks.csv   (ten minutes)

The weights are random, or those of a released file, --weights, or of a run, --run: random ones leave many pixels near
0, and a network that has learnt these pictures by heart (real_objects.py lays them out) does not. Where the hardware
does not multiply bfloat16, products are done as it would: of rounded factors, summed in float32, the sum rounded once.
"""

import os
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch
from measured import parser, report
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import magnet
from magnet import runs
from magnet.config import DataConfig
from magnet.data import read_refer
from magnet.evaluate import score_expressions
from magnet.metrics import find_protocol, rle_intersection_union
from magnet.workbench import machine
from magnet.workbench.benchmark import Stepper

DATA = "refcocog_google_val_mini"
aten = torch.ops.aten
PRODUCTS = (aten.mm, aten.addmm, aten.bmm, aten.convolution, aten._scaled_dot_product_flash_attention_for_cpu)


class Emulated(TorchDispatchMode):
    """bfloat16 products without the hardware, at float32's speed; PyTorch's own way takes hundreds of times as long."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket not in PRODUCTS or args[0].dtype != torch.bfloat16:
            return function(*args, **(kwargs or {}))
        found = function(*tree_map(_widened, args), **tree_map(_widened, kwargs or {}))
        return (found[0].bfloat16(), *found[1:]) if isinstance(found, tuple) else found.bfloat16()


def _widened(value):
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value


def masks(model: torch.nn.Module, table: pd.DataFrame, real: Path, vocabulary: str, precision: str) -> pd.Series:
    """The answer to every sentence of the table, as run lengths."""
    data = DataConfig(root=str(real), name=DATA, split_by="google", num_workers=0)
    emulated = precision == "bfloat16" and not machine.has_bfloat16(torch.device("cpu"))
    with Emulated() if emulated else nullcontext():
        (scores,) = score_expressions(model, table, data, vocabulary, [find_protocol("original")], precision=precision)
    return scores["rle"]


def network(options: Namespace) -> tuple[torch.nn.Module, str]:
    """And what its weights are."""
    if options.weights:
        return magnet.load_released(options.weights), "released weights"
    if options.run:
        return runs.find(options.run).load_model(), "a network that knows them by heart"
    return Stepper(magnet.recipe("magnet_base"), 1).objective.model, "random weights"


def main() -> None:
    options = parser(__doc__)
    given = options.add_mutually_exclusive_group()
    given.add_argument("--weights", help="a released file; default: random weights")
    given.add_argument("--run", help="a run of magnet_base that was trained on them")
    options = options.parse_args()
    real = Path(os.environ["MAGNET_REAL_DATA"])
    model, kind = network(options)
    words = str(real / "bert-base-uncased-vocab.txt")
    table = read_refer(real, DATA, "google", cache=False)
    exact, rough = (masks(model, table, real, words, precision) for precision in ("float32", "bfloat16"))
    pairs = [rle_intersection_union(*one) for one in zip(exact, rough, table["height"], table["width"])]
    both, either = map(sum, zip(*pairs))
    each = [one / two if two else 1.0 for one, two in pairs]
    rows = [
        (f"{len(table)} sentences on real pictures, {kind}: IoU of all masks, bfloat16 with float32", both / either),
        ("the same, mean of a mask", sum(each) / len(each)), ("the same, least", min(each)),
    ]  # fmt: skip
    report([(what, value, "IoU") for what, value in rows], options.output)


if __name__ == "__main__":
    main()
