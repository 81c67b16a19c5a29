"""`magnet demo`: from nothing to a trained, scored and pictured model, on a laptop without a network.

magnet demo                 # about 12 minutes on two cores
magnet demo --minutes 1     # the smoke version: everything happens, the scores mean nothing
"""

import dataclasses
import os
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
from accelerate import Accelerator

import magnet
from magnet import runs
from magnet.config import Config
from magnet.data import data_root, read_refer, select_split
from magnet.optimizer import choose_precision
from magnet.refshapes.baselines import available, baseline_table
from magnet.refshapes.pretrain import kept_at
from magnet.refshapes.write import write_refshapes
from magnet.workbench.report import write_report

RECIPE = "magnet_tiny"
FULL_MINUTES = 12  # what the recipe's own number of steps is made for
SHOWN = ["split", "model", "n", "oIoU", "oIoU_low", "oIoU_high", "mIoU", "mIoU_low", "mIoU_high"]
SPLITS = ("val", "testA", "testB", "testC", "testR")


def demo_config(minutes: float = FULL_MINUTES, seed: int = 0, root: str | Path | None = None) -> Config:
    """The recipe with its steps and all that is counted in them cut to the share `minutes` is of the full demo."""
    share = minutes / FULL_MINUTES
    config = shortened(magnet.recipe(RECIPE, seed=seed), share)
    vision = config.model.vision
    vision = dataclasses.replace(vision, pretraining_steps=max(1, round(vision.pretraining_steps * share)))
    model = dataclasses.replace(config.model, vision=vision)
    data = dataclasses.replace(config.data, root=None if root is None else str(root))
    return dataclasses.replace(config, model=model, data=data)


def shortened(config: Config, share: float) -> Config:
    """A recipe that counts in steps, with that share of them, of its warm-up and of its curriculum.

    The vision backbone learns names as long as before: it is shared with every run that has the same.
    """
    optim = config.optim
    optim = dataclasses.replace(
        optim, num_steps=max(2, round(optim.num_steps * share)), val_every=max(1, round(optim.val_every * share)),
        warmup_steps=round(optim.warmup_steps * share),
    )  # fmt: skip
    data = dataclasses.replace(config.data, easy_first=round(config.data.easy_first * share))
    return dataclasses.replace(config, optim=optim, data=data)


def run_demo(minutes: float = FULL_MINUTES, seed: int = 0, root: str | Path | None = None) -> runs.Run:
    """Data, training, scores beside the baselines, pictures and report; prints where everything is.

    Called again it goes on where it was stopped, or finds all of it done.
    """
    began = time.monotonic()
    with PeakMemory() as memory:
        run, in_one_go = _run_steps(minutes, seed, data_root(root))
    cost = {"minutes": (time.monotonic() - began) / 60, "memory_gb": memory.gb}
    if in_one_go:
        runs.write_json(run.folder / "cost.json", cost)
    print(f"took {cost['minutes']:.1f} minutes and {cost['memory_gb']:.1f} GB; open the report in a browser")
    return run


def _run_steps(minutes: float, seed: int, root: Path) -> tuple[runs.Run, bool]:
    """The run, and whether all of it was done now."""
    print(f"1/4  RefShapes: {write_refshapes(root, 'small', num_workers=os.cpu_count() or 1)}")
    config = demo_config(minutes, seed, root)
    vision, optim = config.model.vision, config.optim
    print(
        f"2/4  {config.recipe}, all from random weights: {vision.pretraining_steps} steps in which the vision backbone"
    )
    print(f"     learns to name objects, then {optim.num_steps} of the whole network")
    # else these minutes are only those since it went on
    in_one_go = not (runs.open_run(config).checkpoint.exists() or backbone_is_there(config))
    run = magnet.fit(config)
    print("3/4  scoring every split")
    summary = score_splits(run)
    print(
        summary[["split", "model", "n", "oIoU", "oIoU_low", "oIoU_high", "mIoU", "P@0.5"]]
        .round(1)
        .to_string(index=False)
    )
    print(f"4/4  report: {write_report(run)}")
    return run, in_one_go


def backbone_is_there(config: Config) -> bool:
    precision = choose_precision(config.optim, Accelerator().device)
    return config.model.vision.pretrained == "refshapes" and kept_at(config.model.vision, precision).exists()


def score_splits(run: runs.Run, splits: tuple[str, ...] = SPLITS) -> pd.DataFrame:
    """Summary with intervals of the run and of every baseline on each split, kept as summary.csv in the run folder."""
    data = run.config.data
    expressions = read_refer(data.root, data.name, data.split_by, data.polygon_overlap)
    rows = []
    for split in splits:
        table = magnet.evaluate(run, split=split, cached=True)
        rows.append({"split": split, "model": run.config.recipe, **magnet.summarize(table)})
        truths = select_split(expressions, split)
        for name in available(splits):
            rows.append({"split": split, "model": name, **magnet.summarize(baseline_table(name, truths))})
    summary = pd.DataFrame(rows)
    runs.atomic_write(run.folder / "summary.csv", lambda file: summary.to_csv(file, index=False))
    return summary


class PeakMemory(threading.Thread):
    """Samples the memory of this process and of all it started, together, while it is entered: `gb`.

    Where the system tells (Linux), pages that several of them share, such as torch's own code, count once.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.gb, self._left = 0.0, threading.Event()

    def run(self) -> None:
        while not self._left.wait(0.5):
            own = psutil.Process()
            sizes = [_resident(process) for process in (own, *own.children(recursive=True))]
            self.gb = max(self.gb, sum(sizes) / 1e9)

    def __enter__(self) -> "PeakMemory":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._left.set()
        self.join()


def _resident(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
        return getattr(memory, "pss", memory.rss)
    except psutil.Error:  # it has ended meanwhile, or is not ours to ask
        return 0
