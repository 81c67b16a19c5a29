"""How fast a full-size MagNet (Swin-B, BERT-base, 480 px) runs on a CPU, now and on the plain path, in turns.

python benchmarks/full_size.py --output results/tables/full_size.csv      (about ten minutes, with nothing beside it)

Plain is what tests compare with: readings by the library's bilinear sampling, attention that is not fused. Shares are
of the machine's own matrix product in float32, measured in the same round; recomputation does not count. Training is a
step with Mask Grounding, without dropout's or the data's work.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from unittest import mock

import torch
from measured import parser, report
from torch.utils.flop_counter import FlopCounterMode

import magnet
from magnet.config import Config, GroundingConfig
from magnet.models import pixel_decoder, scale_reading, vision
from magnet.workbench.benchmark import Stepper

GEMM, STEP_PICTURES = 2048, 2


@contextmanager
def plain() -> Iterator[None]:
    """The network without what was made faster."""
    by_grid = mock.patch.object(pixel_decoder, "read_scales", scale_reading.by_grid)
    with by_grid, mock.patch.object(vision, "_fused_is_faster", lambda x: False):
        yield


WAYS = {"now": nullcontext, "plain": plain}


def seconds(work: Callable) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def gflops() -> float:
    """Of the matrix product, the best of three."""
    matrix = torch.randn(GEMM, GEMM)
    return 2 * GEMM**3 / 1e9 / min(seconds(lambda: matrix @ matrix) for _ in range(3))


def in_turns(what: str, work: Callable, gflop: float, rounds: int) -> list[tuple[str, float, str]]:
    """Seconds and share of the peak of both ways and their ratio, medians; the first round is not counted."""
    taken = []
    for _ in range(rounds + 1):
        peak, found = gflops(), {}
        for name, way in WAYS.items():
            with way():
                found[name] = seconds(work)
        taken.append({**found, "peak": peak, "share": gflop / found["now"] / peak})
    middle = {name: statistics.median(one[name] for one in taken[1:]) for name in taken[0]}
    ratio = statistics.median(one["plain"] / one["now"] for one in taken[1:])
    rows = [(f"{what}, {name}", middle[name], "s") for name in WAYS]
    rows += [(f"{what}: share of the matrix product", middle["share"], "of it"), (f"{what}: plain over now", ratio, "")]
    return [*rows, (f"matrix product beside {what}", middle["peak"], "GFLOP/s")]


def forward(config: Config) -> list[tuple[str, float, str]]:
    stepper = Stepper(config, 1)
    model, batch = stepper.objective.model.eval(), stepper.batch
    ask = torch.no_grad()(lambda: model(batch["images"], batch["token_ids"], batch["token_mask"]))
    with FlopCounterMode(display=False) as counter:
        ask()
    return in_turns("forward pass of 1", ask, counter.get_total_flops() / 1e9, rounds=7)


def training(config: Config, passes: int) -> list[tuple[str, float, str]]:
    config = replace(config, grounding=GroundingConfig(passes=passes), optim=replace(config.optim, precision="float32"))
    stepper = Stepper(config, STEP_PICTURES)
    with FlopCounterMode(display=False) as counter:
        stepper.seconds(0)
    what = f"training step of {STEP_PICTURES}, {'one pass' if passes == 1 else 'two passes'}"
    return in_turns(what, lambda: stepper.seconds(0), counter.get_total_flops() / 1e9, rounds=3)


def main() -> None:
    options, config = parser(__doc__).parse_args(), magnet.recipe("magnet_base")
    report([*forward(config), *training(config, 1), *training(config, 2)], options.output)


if __name__ == "__main__":
    main()
