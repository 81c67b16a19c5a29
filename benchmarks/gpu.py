"""Full size on a GPU, beside what the GPU can do: training, evaluation, memory, and where the time goes.

python benchmarks/gpu.py --output results/tables/gpu.csv        (half an hour on an H100, a guess)

Random weights and pictures cost what real ones do. A step is forward, backward and update in bfloat16, the median of
STEPS; model FLOPs are three times those of its forward passes, recomputation not counted. Evaluation: whole passes over
JPEG files of 480 x 640 with six or nine sentences each, from file to table; one by one, every sentence has its own
picture, read and looked at anew; its FLOPs are those of all sentences together. One pass has as many sentences as
RefCOCO's val. Profiles: seconds of a step by kind of operation, before (the plain path of full_size.py) and now. Last
comes what may take longest, torch.compile; the file is written after every part, as time may end. Without a GPU only
--quick runs, with what a CPU can do.
"""

import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pandas as pd
import torch
from evaluation import pass_seconds
from full_size import plain
from measured import parser, report
from photos import make_photos

import magnet
from magnet.evaluate import best_device
from magnet.workbench import machine
from magnet.workbench.benchmark import Stepper, inference_gflop, random_batch
from magnet.workbench.speed import forward as ask
from magnet.workbench.time_spent import profiled

RECIPES = ("magnet_base", "lavt_base", "coupalign_base")
SHAPES = ((8, False), (8, True), (16, False), (16, True), (32, False), (32, True))  # pictures a step, checkpointing
STEPS, LIMIT_GB, VAL = 5, 24, 10_834  # VAL: sentences of RefCOCO's val, in 1,500 pictures
Row = tuple[str, float, str]


def seconds(work: Callable, device: torch.device) -> float:
    """Median, after two that do not count."""
    return statistics.median([machine.seconds(work, device) for _ in range(STEPS + 2)][2:])


def set_shape(stepper: Stepper, batch_size: int, checkpointing: bool) -> str:
    model, sentences = stepper.objective.model, stepper.config.data.sentences_per_image
    model.config = replace(model.config, gradient_checkpointing=checkpointing)
    if len(stepper.batch["token_ids"]) != batch_size * sentences:
        stepper.batch = {k: v.to(stepper.device) for k, v in random_batch(stepper.config, batch_size).items()}
    stepper.optimizer.zero_grad()
    if stepper.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return f"training step of {batch_size}{', checkpointing' if checkpointing else ''}"


def training(stepper: Stepper, shapes: tuple, peak: float) -> list[Row]:
    """The same network in all shapes."""
    gflop, rows = stepper.cost()["training_gflop"], []
    for batch_size, checkpointing in shapes:
        what = set_shape(stepper, batch_size, checkpointing)
        try:
            taken = seconds(lambda: stepper.seconds(0), stepper.device)
        except torch.OutOfMemoryError:
            rows.append((f"{what}: out of the memory of", torch.cuda.mem_get_info()[1] / 1e9, "GB"))
            continue
        share = 3 * gflop * batch_size / taken / peak
        rows += [(what, batch_size / taken, "images/s"), (f"{what}: share of peak", share, "of the matrix product")]
        rows.append((f"{what}: memory", machine.peak_memory_gb(), "GB"))
    return rows


def forward(stepper: Stepper, batch_size: int, peak: float) -> list[Row]:
    what = f"forward pass of {batch_size}, {stepper.precision}"
    set_shape(stepper, batch_size, False)
    work = partial(ask, stepper, stepper.batch)
    gflop, taken = inference_gflop(stepper.objective.model, work), seconds(work, stepper.device)
    return [
        (what, batch_size / taken, "images/s"),
        (f"{what}: share of peak", gflop / taken / peak, "of the matrix product"),
    ]


def profiles(stepper: Stepper, batch_size: int) -> list[Row]:
    """Seconds of a step by kind of operation and their shares, before and now."""
    what, rows = set_shape(stepper, batch_size, False), []
    for name, way in (("before", plain), ("now", nullcontext)):
        with way():
            for _ in range(3):  # the first two do not count
                spent = profiled(lambda: stepper.seconds(0), stepper)
        kinds = Counter()
        for (_, kind, _), taken in spent.items():
            kinds[kind] += taken
        rows += [(f"{what}, {name}, profile: {kind}", taken, "s") for kind, taken in kinds.most_common()]
        rows.append((f"{what}, {name}, profile: all", kinds.total(), "s"))
    return rows


def evaluation(stepper: Stepper, photos: pd.DataFrame, peaks: dict[str, float], few: int) -> list[Row]:
    model, rows = stepper.objective.model.eval(), []
    data = replace(stepper.config.data, num_workers=min(14, os.cpu_count()))
    alike = replace(data, num_workers=0)  # in this process, where arithmetic is counted
    gflop = inference_gflop(model, lambda: pass_seconds(model, photos.iloc[:few], alike, 56)) / few
    for precision in (stepper.precision, "float32") if stepper.precision == "bfloat16" else ("float32",):
        some = photos if precision == stepper.precision else photos.iloc[: 10 * few]
        pass_seconds(model, photos.iloc[:few], data, 56, precision)  # does not count
        together = 1 / pass_seconds(model, some, data, 56, precision)
        alone = 1 / pass_seconds(model, photos.iloc[: 5 * few], data, 1, precision, alone=True)
        share = gflop * together / peaks[f"gemm {precision}"]
        rows.append((f"evaluation together, {precision}", together, "sentences/s"))
        rows.append((f"evaluation together, {precision}: share of peak", share, "of the matrix product"))
        rows.append((f"evaluation one by one, {precision}", alone, "sentences/s"))
        rows.append((f"evaluation together over one by one, {precision}", together / alone, "times"))
        rows.append((f"evaluation, {precision}, a pass over {len(some)} sentences", len(some) / together, "s"))
    model.train()
    return rows


def largest(fits: Callable[[int], bool], most: int = 128) -> int:
    """The largest number up to `most` that fits, where all below it do: doubled, then halved in between."""
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def largest_batches(stepper: Stepper) -> list[Row]:
    """With no more memory than a smaller GPU has."""

    def fits(batch_size: int, checkpointing: bool) -> bool:
        set_shape(stepper, batch_size, checkpointing)
        try:
            for _ in range(2):
                stepper.seconds(0)
        except torch.OutOfMemoryError:
            return False
        return True

    torch.cuda.set_per_process_memory_fraction(min(1.0, LIMIT_GB * 1e9 / torch.cuda.mem_get_info()[1]))
    found = {checkpointing: largest(partial(fits, checkpointing=checkpointing)) for checkpointing in (False, True)}
    torch.cuda.set_per_process_memory_fraction(1.0)
    names = {False: f"largest batch in {LIMIT_GB} GB", True: f"largest batch in {LIMIT_GB} GB, checkpointing"}
    return [(names[checkpointing], number, "images") for checkpointing, number in found.items()]


def compiled(stepper: Stepper, batch_size: int, backend: str) -> list[Row]:
    """Training and forward pass by torch.compile, and how long the first of each takes. No row where that fails."""
    set_shape(stepper, batch_size, False)
    whole, rows = stepper.objective, []
    works = {"training step": lambda: stepper.seconds(0), "forward pass": lambda: ask(stepper, stepper.batch)}
    for name, work in works.items():
        made = torch.compile(whole if name == "training step" else whole.model, backend=backend)
        stepper.objective = made if name == "training step" else SimpleNamespace(model=made)
        try:
            first, taken = machine.seconds(work, stepper.device), seconds(work, stepper.device)
        except Exception as error:  # the compiler raises what its parts like
            print(f"torch.compile, {name}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        rows.append((f"{name} of {batch_size}, compiled", batch_size / taken, "images/s"))
        rows.append((f"{name} of {batch_size}, compiled: the first", first, "s"))
    stepper.objective = whole
    return rows


def parts(recipe: str, shapes: tuple, photos: pd.DataFrame, quick: bool, peaks: dict) -> list[Callable]:
    """What is measured of a recipe, in order; each gives rows."""
    stepper = Stepper(magnet.recipe(recipe), shapes[0][0])
    peak, middle = peaks[f"gemm {stepper.precision}"], shapes[len(shapes) // 2][0]
    few, backend = (6, "aot_eager") if quick else (56, "inductor")
    found = [
        partial(training, stepper, shapes, peak), partial(forward, stepper, middle, peak),
        partial(evaluation, stepper, photos, peaks, few), partial(profiles, stepper, shapes[0][0]),
    ]  # fmt: skip
    if stepper.device.type == "cuda":
        found.append(partial(largest_batches, stepper))
    return [*found, partial(compiled, stepper, shapes[0][0], backend)]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--recipes", nargs="+", default=RECIPES)
    options.add_argument("--quick", action="store_true", help="the smallest of everything, to see that it runs")
    options = options.parse_args()
    device = best_device()
    if device.type == "cpu" and not options.quick:
        sys.exit("no NVIDIA GPU is at hand: nothing is measured. benchmarks/full_size.py measures a CPU; --quick tries")
    peaks, shapes = machine.peaks(device), ((2, False), (2, True)) if options.quick else SHAPES
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    rows = [(f"{name}: {what}", value / 1e3, "TB/s" if what == "copy" else "TFLOP/s") for what, value in peaks.items()]
    with TemporaryDirectory() as folder:
        photos = make_photos(Path(folder), 4 if options.quick else 1500).iloc[:VAL]
        for recipe in options.recipes:
            for part in parts(recipe, shapes, photos, options.quick, peaks):
                rows += [(f"{recipe}, {what}", value, unit) for what, value, unit in part()]
                report(rows, options.output)  # after each, as time may end


if __name__ == "__main__":
    main()
