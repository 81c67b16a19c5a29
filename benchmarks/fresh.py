"""One measurement in a process of its own, so that the memory it takes at most is its own."""

import ctypes
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

import magnet
from magnet import runs
from magnet.config import Config
from magnet.evaluate import evaluation_in
from magnet.memory import keep_freed
from magnet.workbench import machine
from magnet.workbench.benchmark import Stepper
from magnet.workbench.demo import PeakMemory
from magnet.workbench.speed import forward

UNCOUNTED = 4  # steps of a training, before processes and caches have settled


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is measured; None: as the recipe has it. Weights, pictures and words are random."""

    recipe: str
    work: str  # "forward": without gradients; "step": forward, backward, update; "training": whole, loader and all
    batch_size: int = 1  # pictures
    image_size: int | None = None
    num_tokens: int | None = None
    sentences_per_image: int | None = None
    passes: int | None = None  # of Mask Grounding
    num_processes: int = 1  # of a training
    precision: str = "float32"
    keep_freed: bool = True  # memory, as `magnet.memory` does wherever a network is built
    rounds: int = 1  # after one that does not count

    def config(self) -> Config:
        config, own = magnet.recipe(self.recipe), ("image_size", "num_tokens", "sentences_per_image")
        data = {name: getattr(self, name) for name in own if getattr(self, name) is not None}
        optim = {name: getattr(self, name) for name in ("batch_size", "num_processes", "precision")}
        if config.grounding and self.passes:
            config = replace(config, grounding=replace(config.grounding, passes=self.passes))
        return replace(config, data=replace(config.data, **data), optim=replace(config.optim, **optim))


def measure(work: Work) -> dict[str, float]:
    """seconds: of one, the median; memory_gb: the most that was in use; working_gb: that beyond what stays between two,
    such as weights and moments (not of a training, whose memory is that of all its processes)."""
    return training(work) if work.work == "training" else alone(work)


def alone(work: Work) -> dict[str, float]:
    stepper = Stepper(work.config(), work.batch_size)
    keep_freed(work.keep_freed)
    once = (lambda: forward(stepper, stepper.batch)) if work.work == "forward" else (lambda: stepper.seconds(0))
    once()
    between = resident_gb()
    asked = work.work == "forward"
    with evaluation_in(work.precision, stepper.objective.model, stepper.device) if asked else nullcontext():
        seconds = statistics.median(machine.seconds(once, stepper.device) for _ in range(work.rounds))
    memory = machine.peak_memory_gb()
    return {"seconds": seconds, "memory_gb": memory, "working_gb": memory - between}


def resident_gb() -> float:
    """Of this process, without what it freed but keeps to use again, where the system can be told to take that back."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    return psutil.Process().memory_info().rss / 1e9


def training(work: Work) -> dict[str, float]:
    """On the RefShapes that come with the package; seconds of a step by its own log."""
    config, steps = work.config(), UNCOUNTED + work.rounds
    vision = replace(config.model.vision, pretrained=None)
    optim = replace(config.optim, num_steps=steps, val_every=steps, val_expressions=8)
    data = replace(config.data, root=str(runs.SHIPPED.parent))
    config = replace(config, model=replace(config.model, vision=vision), optim=optim, data=data, log_every=1)
    with TemporaryDirectory() as folder, PeakMemory() as memory:
        runs.ROOT = Path(folder)
        log = magnet.fit(config, progress=False).log()
    speeds = [line["images_per_second"] for line in log if "images_per_second" in line]
    return {"seconds": work.batch_size / statistics.median(speeds[UNCOUNTED:]), "memory_gb": memory.gb}


def in_process(work: Work, function: Callable = measure, *options) -> Any:
    """`function(work, *options)` in a new process, which need not import everything anew. BrokenProcessPool where it is
    killed, often for lack of memory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fresh"])
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(function, work, *options).result()
