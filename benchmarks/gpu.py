"""Full size on a GPU, beside what the GPU can do: training steps, and evaluation of sentences together and one by one.

python benchmarks/gpu.py --output results/tables/gpu.csv        (three minutes on an H100)

Random weights and pictures cost what real ones do. A step is forward, backward and update in bfloat16, the median of
STEPS; model FLOPs are three times those of its forward passes, recomputation not counted. Evaluation: whole passes over
JPEG files of 480 x 640 with six or nine sentences each, from file to table; one by one, every sentence has its own
picture, read and looked at anew.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from evaluation import pass_seconds
from measured import parser, report
from photos import make_photos

import magnet
from magnet.workbench.benchmark import Stepper

RECIPES = ("magnet_base", "lavt_base", "coupalign_base")
SHAPES = ((8, False), (8, True), (16, False), (16, True), (32, True))  # pictures a step, gradient checkpointing
STEPS, MATRIX, COPY = 5, 8192, 2**31
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


def training(stepper: Stepper, shapes: tuple, gflop: float, peak: float) -> list[Row]:
    """The same network in all shapes."""
    whole, model, rows = stepper.batch, stepper.objective.model, []
    for batch_size, checkpointing in shapes:
        model.config = replace(model.config, gradient_checkpointing=checkpointing)
        stepper.batch = {name: values[:batch_size] for name, values in whole.items()}
        what = f"training step of {batch_size}{', checkpointing' if checkpointing else ''}"
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            taken = seconds(lambda: stepper.seconds(0))
        except torch.OutOfMemoryError:
            stepper.optimizer.zero_grad()
            rows.append((f"{what}: out of the memory of", torch.cuda.mem_get_info()[1] / 1e9, "GB"))
            continue
        share = 3e9 * gflop * batch_size / taken / peak
        rows += [(what, batch_size / taken, "images/s"), (f"{what}: share of peak", share, "of the matrix product")]
        rows.append((f"{what}: memory", torch.cuda.max_memory_allocated() / 1e9, "GB"))
    return rows


def evaluation(stepper: Stepper, photos: pd.DataFrame, num_alone: int) -> list[Row]:
    model, rows = stepper.objective.model.eval(), []
    data = replace(stepper.config.data, num_workers=14)
    for precision in ("bfloat16", "float32"):
        pass_seconds(model, photos.iloc[:224], data, 56, precision)  # does not count
        together = 1 / pass_seconds(model, photos, data, 56, precision)
        alone = 1 / pass_seconds(model, photos.iloc[:num_alone], data, 1, precision, alone=True)
        rows.append((f"evaluation together, {precision}", together, "sentences/s"))
        rows.append((f"evaluation one by one, {precision}", alone, "sentences/s"))
        rows.append((f"evaluation together over one by one, {precision}", together / alone, "times"))
    return rows


@torch.no_grad()
def forward(stepper: Stepper, batch_size: int, gflop: float, peak: float) -> list[Row]:
    model = stepper.objective.model.eval()
    inputs = [stepper.batch[name][:batch_size] for name in ("images", "token_ids", "token_mask")]
    with torch.autocast("cuda", torch.bfloat16):
        taken = seconds(lambda: model(*inputs))
    what = f"forward pass of {batch_size}, bfloat16"
    share = 1e9 * gflop * batch_size / taken / peak
    return [(what, batch_size / taken, "images/s"), (f"{what}: share of peak", share, "of the matrix product")]


def measure(recipe: str, shapes: tuple, photos: pd.DataFrame, num_alone: int, peak: float) -> list[Row]:
    stepper = Stepper(magnet.recipe(recipe), max(batch_size for batch_size, _ in shapes))
    cost = stepper.cost()
    rows = training(stepper, shapes, cost["training_gflop"], peak)
    rows += forward(stepper, shapes[-1][0], cost["forward_gflop"], peak)
    rows += evaluation(stepper, photos, num_alone)
    return [(f"{recipe}, {what}", value, unit) for what, value, unit in rows]


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
            rows += measure(recipe, shapes, photos, 28 if options.quick else 280, top["gemm"])
            report(rows, options.output)  # after each, as time may end


if __name__ == "__main__":
    main()
