"""How fast the tiny recipes run here, beside what the machine can do: its own peaks are measured between the rounds.

magnet benchmark speed --output results/tables/speed.csv        # a few minutes, with nothing beside it
"""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle

import numpy as np
import pandas as pd
import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import magnet
from magnet.config import Config
from magnet.data import collate, read_refer, select_split, training_set
from magnet.evaluate import evaluation_mode, progress_bar, score_expressions
from magnet.metrics import find_protocol
from magnet.predictor import Predictor
from magnet.runs import SHIPPED
from magnet.workbench.benchmark import Stepper, count_gflop

_GEMM, _COPY = 1536, 64 * 2**20  # rows of the square matrices; bytes that are copied
PEAKS = {"gemm float32": torch.float32, "gemm bfloat16": torch.bfloat16}


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
    timed = {name: _gemm(dtype) for name, dtype in PEAKS.items()} | {"copy": _copy()}
    about = {}
    for recipe in recipes:
        works, known = _works(magnet.recipe(recipe))
        timed |= {f"{recipe}: {what}": work for what, work in works.items()}
        about |= {f"{recipe}: {what}": values for what, values in known.items()}
    taken = []
    with progress_bar(progress, total=(rounds + 1) * len(timed), unit="timing") as bar:
        for _ in range(rounds + 1):
            taken.append({name: _seconds(work, bar) for name, work in timed.items()})
    return _table(pd.DataFrame(taken[1:]), about)


def _works(config: Config) -> tuple[dict[str, Callable], dict[str, dict]]:
    """What is timed of a recipe, and of each how many sentences it takes, its GFLOP and its precision."""
    stepper = Stepper(config, config.optim.batch_size)
    num, steps = len(stepper.batch["token_ids"]), cycle(range(1000))
    dataset, items = training_set(config.data, config.model.language.vocabulary, 0), iter(range(2**31))
    forward, _ = count_gflop(stepper.objective, stepper.batch)
    with FlopCounterMode(display=False) as counter:
        stepper.seconds(0)
    step = counter.get_total_flops() / 1e9
    predictor = Predictor(stepper.objective.model, config.data, config.model.language.vocabulary)
    picture = np.zeros((480, 480, 3), np.uint8)
    evaluation, asked = _evaluation(stepper.objective.model, config)
    works = {
        "loader": lambda: collate([dataset[next(items)] for _ in range(config.optim.batch_size)]),
        "forward": lambda: _forward(stepper, stepper.batch),
        "step": lambda: stepper.seconds(next(steps)),
        "evaluation": evaluation,
        "one answer": lambda: (predictor.set_image(picture), predictor.predict("the red star left of the ring")),
    }
    counts = {"loader": (num, 0.0), "forward": (num, forward), "step": (num, step)}
    counts |= {"evaluation": (asked, 0.0), "one answer": (1, 0.0)}
    return works, {
        what: {"sentences": count, "gflop": work, "precision": stepper.precision}
        for what, (count, work) in counts.items()
    }


def _evaluation(model: torch.nn.Module, config: Config) -> tuple[Callable, int]:
    """What scores a split, and how many sentences that has."""
    data = replace(config.data, root=str(SHIPPED.parent), num_workers=0)
    table = select_split(read_refer(data.root, data.name, data.split_by), "val")
    rules, vocabulary = [find_protocol("original")], config.model.language.vocabulary
    return lambda: score_expressions(model, table, data, vocabulary, rules, progress=False), len(table)


@torch.no_grad()
def _forward(stepper: Stepper, batch: dict) -> None:
    amp = torch.autocast(stepper.device.type, torch.bfloat16, enabled=stepper.precision == "bfloat16")
    with evaluation_mode(stepper.objective.model), amp:
        stepper.objective.model(batch["images"], batch["token_ids"], batch["token_mask"])


def _gemm(dtype: torch.dtype) -> Callable:
    a, b = (torch.randn(_GEMM, _GEMM).to(dtype) for _ in range(2))
    return lambda: a @ b


def _copy() -> Callable:
    source = torch.zeros(_COPY, dtype=torch.uint8)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _seconds(work: Callable, bar: tqdm) -> float:
    began = time.perf_counter()
    work()
    taken = time.perf_counter() - began
    bar.update()
    return taken


def _table(taken: pd.DataFrame, about: dict[str, dict]) -> pd.DataFrame:
    rates = {name: (2 * _GEMM**3 / 1e9, "GFLOP/s") for name in PEAKS} | {"copy": (2 * _COPY / 1e9, "GB/s")}
    rates |= {name: (known["sentences"], "sentences/s") for name, known in about.items()}
    rows = []
    for name, seconds in taken.items():
        row = {"what": name, "seconds": seconds.min(), "median_seconds": seconds.median()}
        row |= {"rate": rates[name][0] / seconds.min(), "unit": rates[name][1]}
        if about.get(name, {}).get("gflop"):
            peak = 2 * _GEMM**3 / 1e9 / taken[f"gemm {about[name]['precision']}"]
            row["share_of_peak"] = (about[name]["gflop"] / seconds / peak).median()
        rows.append(row)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return pd.DataFrame([*rows, {"what": "peak memory", "rate": memory, "unit": "GB"}])


def module_times(config: Config, repeats: int = 5) -> pd.DataFrame:
    """Milliseconds of forward and backward pass of each part of the network by itself, on what it meets in a training
    step: module, forward_ms, backward_ms (medians), share of their sum. Losses, optimiser and what lies between the
    modules are not in it."""
    stepper = Stepper(config, config.optim.batch_size)
    met = _met(stepper)
    rows = []
    for name, inputs in met.items():
        times = [_both_ways(stepper, *inputs) for _ in range(repeats + 1)][1:]
        forward, backward = (1e3 * statistics.median(column) for column in zip(*times))
        rows.append({"module": name, "forward_ms": forward, "backward_ms": backward})
    table = pd.DataFrame(rows)
    total = table["forward_ms"] + table["backward_ms"]
    return table.assign(share=total / total.sum())


def _met(stepper: Stepper) -> dict[str, tuple]:
    """Name -> module and inputs of the network's outermost modules with weights that a step calls: a backbone that is
    gone through layer by layer gives its layers."""
    called, hooks = {}, []
    model = stepper.objective.model
    for name, module in model.named_modules():
        note = partial(_note, called, name)
        hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
    stepper.seconds(0)
    for hook in hooks:
        hook.remove()
    met, waiting = {}, list(model.named_children())
    while waiting:
        name, module = waiting.pop(0)
        if name in called:
            met[name] = (module, *called[name])
        else:
            waiting = [(f"{name}.{key}", child) for key, child in module.named_children()] + waiting
    return {name: found for name, found in met.items() if any(True for _ in found[0].parameters())}


def _note(called: dict, name: str, _: torch.nn.Module, args: tuple, kwargs: dict) -> None:
    called.setdefault(name, (args, kwargs))


def _both_ways(stepper: Stepper, part: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[float, float]:
    args, kwargs = tree_map(_leaf, (args, kwargs))
    began = time.perf_counter()
    with torch.autocast(stepper.device.type, torch.bfloat16, enabled=stepper.precision == "bfloat16"):
        outputs = tree_leaves(part(*args, **kwargs))
    middle = time.perf_counter()
    reached = [x for x in outputs if isinstance(x, torch.Tensor) and x.requires_grad]
    if reached and any(p.requires_grad for p in part.parameters()):
        torch.autograd.backward(reached, [torch.ones_like(x) for x in reached])
    return middle - began, time.perf_counter() - middle


def _leaf(x):
    return x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, torch.Tensor) else x
