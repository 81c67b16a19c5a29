"""Where the time of a forward pass, a training step and an evaluation goes: by module and by kind of operation.

magnet benchmark speed --recipes --modules magnet_base lavt_base coupalign_base --batch-size 2 \\
    --output results/tables/full_size.csv              # full_size_modules.csv; eleven minutes, with nothing beside it

The library's profiler says how long each operator took by itself. A backward operator belongs to the module whose
forward operator it undoes, and what checkpointing computes again to the module that computes.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache, wraps
from importlib import import_module
from unittest import mock

import pandas as pd
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from magnet import losses
from magnet.config import Config
from magnet.data.dataset import PicturesDataset
from magnet.evaluate import progress_bar
from magnet.workbench import machine
from magnet.workbench.benchmark import Stepper, inference_gflop
from magnet.workbench.speed import evaluation, forward

_PART, _NODE = "part: ", "autograd::engine::evaluate_function: "
BETWEEN, WAITING = "between the modules", "the GPU waits"
VIEWS, OUTSIDE = "views, allocation, rest", "outside torch's operators"  # Python, other libraries, the profiler
KINDS = {  # the first whose pattern an operator's name has
    "attention": r"scaled_dot_product|softmax|(flash|efficient)_attention",
    "convolutions": r"conv",
    "norms": r"(layer|batch|group|instance|rms)_norm",
    "sampling": r"grid_sampl|embedding|upsample|interpolate",
    "matrix products": r"^_?(addmm|mm|bmm|baddbmm|addmv|mv|dot|linear|matmul|einsum|scaled_mm)\b|linear_pointwise",
    "copies and layout": r"copy|clone|contiguous|cat\b|stack|index|gather|scatter|roll|pad|shuffle|flip|repeat|fill|"
    r"zero",
    "elementwise and sums": r"^_?(foreach_|fused_|native_)?(add|r?sub|mul|div|neg|abs|sign?|gelu|relu|silu|threshold|"
    r"tanh|sigmoid|log|exp|pow|r?sqrt|erf|sin|cos|clamp|a?min|a?max|where|sum|mean|norm|lerp|linalg_vector_norm|"
    r"dropout|bernoulli|masked|eq|ne|gt|ge|lt|le|floor|nan|is|binary_cross|nll|cumsum|topk|sort|any|all|bitwise|"
    r"logical|adam)",
}


def time_spent(config: Config, batch_size: int, rounds: int = 7, num: int = 3, shown: bool = True) -> pd.DataFrame:
    """Rows by "whole", "module" and "kind" of each work, and by "machine", its peaks measured in the same rounds.

    Works, with random weights: a forward pass of one picture without gradients; a training step of `batch_size`
    pictures; an evaluation of `num` sentences of the RefShapes that come with the package, from file to table.
    seconds: medians over `rounds`, for step and evaluation half as many, column rounds; a first one is not counted.
    backward: seconds in the backward pass. share: of all modules or kinds; of the whole that of the matrix product in
    the same precision, which does all that arithmetic, in the same round. rate: GFLOP/s or GB/s.
    On a GPU seconds are those of its kernels, and "the GPU waits" is the rest. Without training, what words read from
    pixels has closed gates and costs an evaluation nothing, as in the released networks.
    """
    stepper = Stepper(config, batch_size)
    model, works, tables = stepper.objective.model, _works(stepper, num), []
    several = {name: rounds if name == "forward" else -(-rounds // 2) for name in works}
    with progress_bar(shown, total=sum(several.values()), unit="round") as bar:
        for name, (work, sentences) in works.items():
            taken, gflop = [], stepper.step_gflop() if name == "step" else inference_gflop(model, work)
            for _ in range(several[name]):
                taken.append((machine.peaks(stepper.device), profiled(work, stepper)))
                bar.update()
            about = {"recipe": config.recipe, "work": name, "sentences": sentences, "precision": stepper.precision}
            tables.append(_table(taken, gflop, stepper.precision).assign(**about, rounds=several[name]))
    return pd.concat(tables, ignore_index=True)


def _works(stepper: Stepper, num: int) -> dict[str, tuple[Callable, int]]:
    """What is profiled, and how many sentences it takes."""
    one = {name: values[:1] for name, values in stepper.batch.items()}
    return {
        "forward": (lambda: forward(stepper, one), 1),
        "step": (lambda: stepper.seconds(0), len(stepper.batch["token_ids"])),
        "evaluation": evaluation(stepper.objective.model, stepper.config, num, stepper.precision),
    }


def profiled(work: Callable, stepper: Stepper) -> Counter:
    """(module, kind of operation, whether in the backward pass) -> seconds; together what the work took."""
    on_gpu = stepper.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    whole = _marked(machine.seconds, BETWEEN)
    with _parts_marked(stepper.objective), profile(activities=activities, acc_events=True) as profiler:
        taken = whole(work, stepper.device)
    events = sorted(profiler.events(), key=lambda event: event.time_range.start)
    spent = _spent([event for event in events if event.device_type == DeviceType.CPU], on_gpu)
    if on_gpu:
        spent[BETWEEN, WAITING, False] += max(0.0, taken - spent.total())
    return spent


def _spent(events: list[FunctionEvent], on_gpu: bool) -> Counter:
    forwards = {e.sequence_nr: e for e in events if e.sequence_nr >= 0 and "Backward" not in e.name}  # the last of each
    spent = Counter()
    for event in events:
        own = sum(kernel.duration for kernel in event.kernels) if on_gpu else event.self_cpu_time_total
        if own and not (on_gpu and event.name.startswith(_PART)):
            part, backward = _place(event, forwards)
            spent[part, _kind(event.name), backward] += own / 1e6
    return spent


def _place(event: FunctionEvent, forwards: dict[int, FunctionEvent]) -> tuple[str, bool]:
    """The module that an event belongs to, and whether it is part of the backward pass."""
    part, backward = None, False
    while event is not None:
        if event.name.startswith("Optimizer."):
            part = part or "optimizer"
        elif event.name.startswith(_PART):
            part = part or event.name.removeprefix(_PART)
        elif event.name.startswith(_NODE):
            backward = True
            undone = forwards.get(event.sequence_nr)
            part = part or (undone and _place(undone, {})[0])
        event = event.cpu_parent
    return part or BETWEEN, backward


@lru_cache(maxsize=4096)
def _kind(name: str) -> str:
    if name.startswith("_Reading"):  # `scale_loops`, compiled by Numba
        return "sampling"
    space, _, operator = name.rpartition("::")
    if space not in ("aten", "mkldnn", "torchvision", "quantized"):
        return OUTSIDE
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, operator)), VIEWS)


@contextmanager
def _parts_marked(objective: torch.nn.Module) -> Iterator[None]:
    """The profiler hears when a module begins and ends, and what else has a name: losses, reading files, scoring."""
    evaluator, inside, hooks = import_module("magnet.evaluate"), [], []
    functions = (losses, "compute", "losses"), (PicturesDataset, "__getitem__", "files")
    with ExitStack() as stack:
        for owner, name, part in (*functions, (evaluator, "_score_batch", "scores")):
            stack.enter_context(mock.patch.object(owner, name, _marked(getattr(owner, name), part)))
        for name, module in objective.named_modules():
            if part := _part(name):
                hooks += _hooks(module, part, inside)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _part(name: str) -> str:
    """The network's modules by its own names, the vision backbone's one by one; not the network itself: with hooks on
    it an evaluation would not share what no word changes."""
    first, *rest = name.removeprefix("model.").split(".")
    if first == "vision":
        return f"vision, {rest[1]}" if len(rest) > 1 else ""
    return "" if name in ("", "model") else first.replace("_", " ")


def _hooks(module: torch.nn.Module, part: str, inside: list[tuple[str, record_function | None]]) -> list:
    """`inside`: the modules that are being computed; one of the same part as the one around it says nothing new."""

    def enter(*_) -> None:
        new = not inside or inside[-1][0] != part
        inside.append((part, record_function(_PART + part).__enter__() if new else None))

    def leave(*_) -> None:
        _, begun = inside.pop()
        if begun:
            begun.__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]


def _marked(function: Callable, part: str) -> Callable:
    @wraps(function)
    def wrapper(*args, **options):
        with record_function(_PART + part):
            return function(*args, **options)

    return wrapper


def _table(taken: list[tuple[dict, Counter]], gflop: float, precision: str) -> pd.DataFrame:
    names = ["module", "kind", "in_backward", "round"]
    each = pd.DataFrame([(*key, i, s) for i, (_, spent) in enumerate(taken) for key, s in spent.items()])
    each.columns = [*names, "seconds"]
    each["backward"] = each["seconds"] * each["in_backward"]
    peaks = pd.DataFrame([peaks for peaks, _ in taken])
    whole = each.groupby("round")[["seconds", "backward"]].sum()
    rate = gflop / whole["seconds"]
    rows = [{"by": "whole", "name": "", **whole.median(), "rate": rate.median(), "unit": "GFLOP/s"}]
    rows[0]["share"] = (rate / peaks[f"gemm {precision}"]).median()
    tables = [pd.DataFrame(rows), *(_parts(each, by) for by in ("module", "kind"))]
    found = [{"by": "machine", "name": name, "rate": values.median()} for name, values in peaks.items()]
    units = {name: unit for name, (_, _, unit) in machine.works(torch.device("cpu")).items()}
    return pd.concat([*tables, pd.DataFrame([{**row, "unit": units[row["name"]]} for row in found])])


def _parts(each: pd.DataFrame, by: str) -> pd.DataFrame:
    """Modules in the order in which they are met, kinds by their share."""
    sums = each.groupby([by, "round"], sort=False)[["seconds", "backward"]].sum().unstack(fill_value=0).stack()
    table = sums.groupby(level=0, sort=False).median()
    table = table.assign(by=by, name=table.index, share=table["seconds"] / table["seconds"].sum())
    return table if by == "module" else table.sort_values("share", ascending=False)
