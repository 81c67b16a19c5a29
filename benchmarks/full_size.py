"""How fast a full-size MagNet (Swin-B, BERT-base, 480 px) runs on a CPU, now and on the plain path, in turns.

python benchmarks/full_size.py --output results/tables/full_size.csv      (half an hour, with nothing beside it)

Plain is what tests compare with: float32, readings by the library's bilinear sampling, timm's own steps through a
window's attention, not fused and with padding in every product.
All keep the memory that they free, but for two rows: those of processes of their own with it and without.
Shares are of the machine's own matrix product in the same precision, measured in the same round; recomputation does not
count. Training is a step with Mask Grounding, without dropout's or the data's work; its memory is that of a process
that does nothing else. Where the hardware multiplies bfloat16 natively, there are rows of it, too;
what it does to masks is measured by full_size_masks.py. full_size_float32.csv is of a machine that does not.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import torch
from fresh import Work, in_process
from measured import parser, report

import magnet
from magnet.evaluate import evaluation_in
from magnet.models import pixel_decoder, scale_reading, window_attention
from magnet.optimizer import has_bfloat16
from magnet.workbench import machine
from magnet.workbench.benchmark import Stepper, inference_gflop
from magnet.workbench.speed import forward as ask

CPU, STEP_PICTURES = torch.device("cpu"), 2
Row = tuple[str, float, str]


@contextmanager
def plain() -> Iterator[None]:
    """The network without what was made faster."""
    by_grid = mock.patch.object(pixel_decoder, "read_scales", scale_reading.by_grid)
    plainly = mock.patch.object(window_attention, "attend", window_attention.attend_plainly)
    with by_grid, plainly:
        yield


def ways(stepper: Stepper, work: Callable) -> dict[str, Callable]:
    """The same work now, on the plain path, and in bfloat16 where the hardware has it."""

    def in_precision(precision: str) -> None:
        stepper.precision = precision
        work()

    found = {"now": lambda: in_precision("float32"), "plain": plain()(lambda: in_precision("float32"))}
    return found | ({"bfloat16": lambda: in_precision("bfloat16")} if has_bfloat16(CPU) else {})


def in_turns(what: str, works: dict[str, Callable], gflop: float, rounds: int) -> list[Row]:
    """Seconds of every way, the others' over these, shares of the peak, all medians; the first round is not counted."""
    taken = []
    for _ in range(rounds + 1):
        taken.append((machine.peaks(CPU), {name: machine.seconds(work, CPU) for name, work in works.items()}))

    def middle(value: Callable) -> float:
        return statistics.median(value(*one) for one in taken[1:])

    rows = [(f"{what}, {name}", middle(lambda _, s, name=name: s[name]), "s") for name in works]
    for name in [name for name in works if name != "plain"]:
        gemm = f"gemm {'bfloat16' if name == 'bfloat16' else 'float32'}"
        share = middle(lambda peaks, s, name=name, gemm=gemm: gflop / s[name] / peaks[gemm])
        rows.append((f"{what}, {name}: share of the matrix product", share, "of it"))
        rows.append(
            (f"matrix product beside {what}, {name}", middle(lambda peaks, _, gemm=gemm: peaks[gemm]), "GFLOP/s")
        )
    pairs = [("plain", "now"), ("plain", "bfloat16"), ("now", "bfloat16")]
    for slow, fast in (pair for pair in pairs if works.keys() >= set(pair)):
        rows.append((f"{what}: {slow} over {fast}", middle(lambda _, s, a=slow, b=fast: s[a] / s[b]), "times"))
    return rows


def forward(recipe: str, rounds: int) -> list[Row]:
    stepper = Stepper(magnet.recipe(recipe), 1)
    work = lambda: ask(stepper, stepper.batch)  # noqa: E731
    gflop = inference_gflop(stepper.objective.model, work)
    with evaluation_in("bfloat16", stepper.objective.model, CPU):  # around all: weights become bfloat16 once
        return in_turns("forward pass of 1", ways(stepper, work), gflop, rounds)


def training(recipe: str, passes: int) -> tuple[str, Work]:
    """A training step's name, and the step."""
    work = Work(recipe=recipe, work="step", batch_size=STEP_PICTURES, passes=passes)
    return f"training step of {STEP_PICTURES}, {'one pass' if passes == 1 else 'two passes'}", work


def step_seconds(work: Work, what: str, rounds: int) -> list[Row]:
    """Without the plain path of two passes, whose memory is not there beside the others'."""
    stepper = Stepper(work.config(), work.batch_size)
    works = ways(stepper, lambda: stepper.seconds(0))
    works = {name: one for name, one in works.items() if name != "plain" or work.passes == 1}
    return in_turns(what, works, stepper.step_gflop(), rounds)


def step_memory(what: str, work: Work) -> list[Row]:
    precisions = {"now": "float32"} | ({"bfloat16": "bfloat16"} if has_bfloat16(CPU) else {})
    taken = {name: in_process(replace(work, precision=precision)) for name, precision in precisions.items()}
    return [(f"{what}, {name}: memory", found["memory_gb"], "GB") for name, found in taken.items()]


def kept_memory(what: str, work: Work) -> list[Row]:
    """What it is worth that freed memory is kept, once as much is there as is needed."""
    ways = {"freed memory kept": True, "freed memory given back": False}
    taken = {name: in_process(replace(work, keep_freed=keep)) for name, keep in ways.items()}
    return [(f"{what}, {name}", found["seconds"], "s") for name, found in taken.items()]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="the tiny network and one round, to see that it runs")
    options.add_argument("--passes", type=int, choices=(1, 2), help="the training step alone, in so many passes")
    options = options.parse_args()
    recipe = "magnet_tiny" if options.quick else "magnet_base"
    steps = [training(recipe, passes) for passes in (1, 2) if options.passes in (None, passes)]
    rows = [row for step in steps for row in step_memory(*step)]  # before this process is large itself
    if not options.passes:
        rows += kept_memory("forward pass of 1", Work(recipe=recipe, work="forward", rounds=15))
        rows += kept_memory(steps[0][0], replace(steps[0][1], rounds=3))
        rows += forward(recipe, 1 if options.quick else 7)
    for what, work in steps:  # each in a process of its own: together their memory is not there
        rows += in_process(work, step_seconds, what, 1 if options.quick else 3)
        report(rows, options.output)  # after each, as time may end


if __name__ == "__main__":
    main()
