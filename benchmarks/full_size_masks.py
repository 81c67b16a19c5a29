"""How far a full-size MagNet's masks in bfloat16 are those in float32, on real pictures.

MAGNET_REAL_DATA=... python benchmarks/full_size_masks.py --output results/tables/full_size_masks.csv   (two minutes)

Random weights leave many pixels near 0. --trained trains them on these pictures first, at 240 px and then a little at
480 (half an hour); --weights takes a released file's. Where the hardware does not multiply bfloat16, products
are done as it would: of rounded factors, summed in float32, the sum rounded once.
"""

import os
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from measured import parser, report
from real_objects import lay_out
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import magnet
from magnet.config import DataConfig
from magnet.data import read_refer
from magnet.evaluate import score_expressions
from magnet.metrics import find_protocol, rle_intersection_union
from magnet.optimizer import has_bfloat16
from magnet.runs import Run
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


def masks(model: torch.nn.Module, table: pd.DataFrame, real: Path, vocabulary: str, precision: str) -> pd.DataFrame:
    """A row a sentence of the table: its answer as run lengths, and how far that is true."""
    data = DataConfig(root=str(real), name=DATA, split_by="google", num_workers=0)
    emulated = precision == "bfloat16" and not has_bfloat16(torch.device("cpu"))
    with Emulated() if emulated else nullcontext():
        (scores,) = score_expressions(model, table, data, vocabulary, [find_protocol("original")], precision=precision)
    return scores


def network(options: Namespace, real: Path, words: str) -> tuple[torch.nn.Module, str]:
    """And what its weights are."""
    if options.weights:
        return magnet.load_released(options.weights), "released weights"
    if options.trained:
        root = str(lay_out(real / DATA, Path("data/real_objects")))
        return trained(root, words).load_model(), "trained on them"
    return Stepper(magnet.recipe("magnet_base"), 1).objective.model, "random weights"


def trained(root: str, words: str) -> Run:
    """MagNet with Swin-B that has seen nothing but these pictures, most of the time at a quarter of their size."""
    config = magnet.recipe("magnet_base")
    vision = replace(config.model.vision, pretrained=None, drop_path=0.0)
    language = replace(config.model.language, pretrained=None, vocabulary=words)
    data = replace(
        config.data, root=root, name="refcocog", split_by="google", train_split="val", val_split="val", num_workers=0
    )
    optim = replace(config.optim, clip_norm=1.0, precision="float32", val_every=1000)
    model = replace(config.model, vision=vision, language=language)
    config = replace(config, model=model, grounding=None, alignment=None)
    small = replace(optim, batch_size=4, num_steps=150, lr=2e-4, warmup_steps=20)
    start = magnet.fit(replace(config, data=replace(data, image_size=240), optim=small))
    whole = replace(optim, batch_size=2, num_steps=26, lr=1e-4, warmup_steps=3)
    return magnet.fit(replace(config, data=replace(data, image_size=480), optim=whole), init=start.name)


def main() -> None:
    options = parser(__doc__)
    given = options.add_mutually_exclusive_group()
    given.add_argument("--weights", help="a released file; default: random weights")
    given.add_argument("--trained", action="store_true", help="train on these pictures first")
    options = options.parse_args()
    real = Path(os.environ["MAGNET_REAL_DATA"])
    words = str(real / "bert-base-uncased-vocab.txt")
    model, kind = network(options, real, words)
    table = read_refer(real, DATA, "google", cache=False)
    exact, rough = (masks(model, table, real, words, precision) for precision in ("float32", "bfloat16"))
    pairs = [rle_intersection_union(*one) for one in zip(exact["rle"], rough["rle"], table["height"], table["width"])]
    both, either = map(sum, zip(*pairs))
    each = [one / two if two else 1.0 for one, two in pairs]
    rows = [
        (f"{len(table)} sentences on real pictures, {kind}: IoU of all masks, bfloat16 with float32", both / either),
        ("the same, mean of a mask", sum(each) / len(each)), ("the same, least", min(each)),
    ]  # fmt: skip
    rows.append(("oIoU of those in float32 with the truth", exact["I"].sum() / exact["U"].sum()))
    report([(what, value, "IoU") for what, value in rows], options.output)


if __name__ == "__main__":
    main()
