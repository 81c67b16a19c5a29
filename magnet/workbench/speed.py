"""How fast the tiny recipes run here, beside what the machine can do: its own peaks are measured between the rounds.

magnet benchmark speed --output results/tables/speed.csv        # a few minutes, with nothing beside it
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle

import numpy as np
import pandas as pd
import torch

import magnet
from magnet.config import Config
from magnet.data import collate, read_refer, select_split, training_set
from magnet.evaluate import best_device, evaluation_mode, progress_bar, score_expressions
from magnet.metrics import find_protocol
from magnet.predictor import Predictor
from magnet.runs import SHIPPED
from magnet.workbench import machine
from magnet.workbench.benchmark import Stepper, count_gflop


def measure_speed(recipes: tuple[str, ...], rounds: int = 7, progress: bool = True) -> pd.DataFrame:
    """Rows of what was timed, columns seconds (its minimum and median over the rounds), rate and unit of the rate at
    the minimum, share_of_peak.

    First the machine: GFLOP/s of square matrix products in each precision, GB/s of a copy. Then for each recipe the
    loader (sentences/s, scenes drawn anew), a forward pass without gradients, a training step of one process,
    evaluation (the val split of the RefShapes that come with the package, from file to table), an answer to one phrase
    on a picture of 480 px. share_of_peak: GFLOP/s of forward pass and step over that of the matrix product in the
    precision they run in, in the same round, median. Last peak memory, of all this together.
    All are timed in turns, so that a machine that slows down slows all of them; the first round is not counted.
    """
    device, about = best_device(), {}
    peaks = machine.works(device)
    timed = {name: work for name, (work, *_) in peaks.items()}
    for recipe in recipes:
        works, known = _works(magnet.recipe(recipe))
        timed |= {f"{recipe}: {what}": work for what, work in works.items()}
        about |= {f"{recipe}: {what}": values for what, values in known.items()}
    taken = []
    with progress_bar(progress, total=(rounds + 1) * len(timed), unit="timing") as bar:
        for _ in range(rounds + 1):
            taken.append({})
            for name, work in timed.items():
                taken[-1][name] = machine.seconds(work, device)
                bar.update()
    rates = {name: (much, unit) for name, (_, much, unit) in peaks.items()}
    return _table(pd.DataFrame(taken[1:]), about, rates)


def _works(config: Config) -> tuple[dict[str, Callable], dict[str, dict]]:
    """What is timed of a recipe, and of each how many sentences it takes, its GFLOP and its precision."""
    stepper = Stepper(config, config.optim.batch_size)
    num, steps = len(stepper.batch["token_ids"]), cycle(range(1000))
    dataset, items = training_set(config.data, config.model.language.vocabulary, 0), iter(range(2**31))
    forward_gflop, _ = count_gflop(stepper.objective, stepper.batch)
    predictor = Predictor(stepper.objective.model, config.data, config.model.language.vocabulary)
    picture = np.zeros((480, 480, 3), np.uint8)
    score, asked = evaluation(stepper.objective.model, config)
    works = {
        "loader": lambda: collate([dataset[next(items)] for _ in range(config.optim.batch_size)]),
        "forward": lambda: forward(stepper, stepper.batch),
        "step": lambda: stepper.seconds(next(steps)),
        "evaluation": score,
        "one answer": lambda: (predictor.set_image(picture), predictor.predict("the red star left of the ring")),
    }
    counts = {"loader": (num, 0.0), "forward": (num, forward_gflop), "step": (num, stepper.step_gflop())}
    counts |= {"evaluation": (asked, 0.0), "one answer": (1, 0.0)}
    return works, {
        what: {"sentences": count, "gflop": work, "precision": stepper.precision}
        for what, (count, work) in counts.items()
    }


def evaluation(
    model: torch.nn.Module, config: Config, num: int | None = None, precision: str = "float32"
) -> tuple[Callable, int]:
    """What scores the first `num` sentences (None: all) of the val split that comes with the package, from file to
    table, and how many these are."""
    shipped = {"root": str(SHIPPED.parent), "name": "refshapes", "split_by": "v1", "num_workers": 0}
    data, rules = replace(config.data, **shipped), [find_protocol("original")]
    table = select_split(read_refer(data.root, data.name, data.split_by), "val").iloc[:num]
    return lambda: score_expressions(model, table, data, "refshapes", rules, None, precision, False), len(table)


@torch.no_grad()
def forward(stepper: Stepper, batch: dict) -> None:
    """The network's answer to a batch, as an evaluation asks for it."""
    amp = torch.autocast(stepper.device.type, torch.bfloat16, enabled=stepper.precision == "bfloat16")
    with evaluation_mode(stepper.objective.model), amp:
        stepper.objective.model(batch["images"], batch["token_ids"], batch["token_mask"])


def _table(taken: pd.DataFrame, about: dict[str, dict], peaks: dict[str, tuple[float, str]]) -> pd.DataFrame:
    rates = peaks | {name: (known["sentences"], "sentences/s") for name, known in about.items()}
    rows = []
    for name, seconds in taken.items():
        row = {"what": name, "seconds": seconds.min(), "median_seconds": seconds.median()}
        row |= {"rate": rates[name][0] / seconds.min(), "unit": rates[name][1]}
        if about.get(name, {}).get("gflop"):
            gemm = f"gemm {about[name]['precision']}"
            peak = peaks[gemm][0] / taken[gemm]
            row["share_of_peak"] = (about[name]["gflop"] / seconds / peak).median()
        rows.append(row)
    return pd.DataFrame([*rows, {"what": "peak memory", "rate": machine.peak_memory_gb(), "unit": "GB"}])
