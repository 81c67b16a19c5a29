"""Full size on a GPU, beside what the GPU can do: training steps, and evaluation of sentences together and one by one.

python benchmarks/gpu.py --output results/tables/gpu.csv        (three minutes on an H100)

Random weights and pictures cost what real ones do. A step is forward, backward and update in bfloat16, the median of
STEPS; model FLOPs are three times those of its forward passes, recomputation not counted. Evaluation: whole passes over
JPEG files of 480 x 640 with seven sentences each, from file to table; one by one, every sentence has its own picture,
read and looked at anew.
"""

import statistics
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from measured import parser, report
from photos import make_photos

import magnet
from magnet.config import DataConfig
from magnet.data import add_token_tags, load_tokenizer
from magnet.data.dataset import PicturesDataset
from magnet.metrics import PROTOCOLS
from magnet.workbench.benchmark import Stepper

RECIPES = ("magnet_base", "lavt_base", "coupalign_base")
SHAPES = ((8, False), (8, True), (16, False), (16, True), (32, True))  # pictures a step, gradient checkpointing
STEPS, MATRIX, COPY = 5, 8192, 2**31
RULE, evaluator = PROTOCOLS["original"], import_module("magnet.evaluate")
Row = tuple[str, float, str]


def seconds(work, repeats: int = STEPS) -> float:
    """Median, after two that do not count."""
    taken = []
    for _ in range(repeats + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def peaks() -> dict[str, float]:
    """FLOP/s of a matrix product in bfloat16, bytes/s of a copy, read and written."""
    a, b = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(COPY // 4, device="cuda")
    target = torch.empty_like(source)
    return {"gemm": 2 * MATRIX**3 / seconds(lambda: a @ b), "copy": 2 * COPY / seconds(lambda: target.copy_(source))}


def training(recipe: str, shapes: tuple, peak: float) -> list[Row]:
    rows, gflop = [], None
    for batch_size, checkpointing in shapes:
        config = magnet.recipe(recipe)
        config = replace(config, model=replace(config.model, gradient_checkpointing=checkpointing))
        what = f"{recipe}, training step of {batch_size}{', checkpointing' if checkpointing else ''}"
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            stepper = Stepper(config, batch_size)
            taken = seconds(lambda made=stepper: made.seconds(0))
        except torch.OutOfMemoryError:
            rows.append((f"{what}: out of memory, of", torch.cuda.mem_get_info()[1] / 1e9, "GB"))
            continue
        memory = torch.cuda.max_memory_allocated() / 1e9
        gflop = gflop or stepper.cost()["training_gflop"]
        share = 3e9 * gflop * batch_size / taken / peak
        rows += [(what, batch_size / taken, "images/s"), (f"{what}: memory", memory, "GB")]
        rows.append((f"{what}: share of peak", share, "of the matrix product"))
    return rows


def evaluation(recipe: str, photos: pd.DataFrame, num_alone: int) -> list[Row]:
    config = magnet.recipe(recipe)
    config = replace(config, data=replace(config.data, num_workers=14))
    model = Stepper(config, 1).objective.model.eval()
    data = config.data
    rows, rate = [], {}
    for precision in ("bfloat16", "float32"):
        rate[precision] = 1 / pass_seconds(model, photos, data, precision, 56)
        rows.append((f"{recipe}, evaluation together, {precision}", rate[precision], "sentences/s"))
        alone = 1 / pass_seconds(model, photos.iloc[:num_alone], data, precision, 1, alone=True)
        rows.append((f"{recipe}, evaluation one by one, {precision}", alone, "sentences/s"))
        rows.append((f"{recipe}, together over one by one, {precision}", rate[precision] / alone, "times"))
    return rows


@torch.no_grad()
def pass_seconds(
    model: torch.nn.Module, photos: pd.DataFrame, data: DataConfig, precision: str, batch_size: int, alone: bool = False
) -> float:
    """An expression's, of the second of two passes, the first being a short one."""
    tokenizer = load_tokenizer("refshapes")
    for table in (photos.iloc[: 4 * batch_size], photos):
        table = add_token_tags(table, tokenizer, data.num_tokens).reset_index(drop=True)
        dataset = PicturesDataset(table, data, tokenizer, batch_size, with_masks=False)
        if alone:
            dataset.batches = [[np.array([row])] for row in range(len(table))]
        began = time.perf_counter()
        evaluator._score_batches(model, evaluator._loader(dataset, data), table, [RULE], precision, False)
        taken = time.perf_counter() - began
    return taken / len(photos)


@torch.no_grad()
def forward(recipe: str, batch_size: int, peak: float) -> list[Row]:
    stepper = Stepper(magnet.recipe(recipe), batch_size)
    model, batch = stepper.objective.model.eval(), stepper.batch
    gflop = stepper.cost()["forward_gflop"]
    with torch.autocast("cuda", torch.bfloat16):
        taken = seconds(lambda: model(batch["images"], batch["token_ids"], batch["token_mask"]))
    what = f"{recipe}, forward pass of {batch_size}, bfloat16"
    return [
        (what, batch_size / taken, "images/s"),
        (f"{what}: share of peak", 1e9 * gflop * batch_size / taken / peak, "of the matrix product"),
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="the smallest of everything, to see that it runs")
    options = options.parse_args()
    recipes, shapes = (RECIPES[:1], SHAPES[:1]) if options.quick else (RECIPES, SHAPES)
    name, top = torch.cuda.get_device_name(), peaks()
    rows = [(f"{name}: matrix product, bfloat16", top["gemm"] / 1e12, "TFLOP/s"), ("copy", top["copy"] / 1e12, "TB/s")]
    with TemporaryDirectory() as folder:
        photos = make_photos(Path(folder), 8 if options.quick else 400)
        for recipe in recipes:
            rows += training(recipe, shapes, top["gemm"])
            rows += forward(recipe, 16, top["gemm"])
            rows += evaluation(recipe, photos, 28 if options.quick else 280)
            report(rows, options.output)  # after each, as time may end


if __name__ == "__main__":
    main()
