"""What a training step of magnet_tiny costs, in counts: seconds are noisy, so these guard against waste coming back."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import magnet
from magnet.optimizer import has_bfloat16
from magnet.workbench import machine, speed, time_spent
from magnet.workbench.benchmark import Stepper

GFLOP, CALLS, MEGABYTES = 0.60, 5800, 0.82  # measured: 0.564 a sentence, 5556, 0.778 a sentence
COPIES = ("copy_", "_to_copy", "clone", "cat")


class Counter(TorchDispatchMode):
    """Operator calls, and the bytes that copying operators write."""

    def __init__(self):
        super().__init__()
        self.calls, self.copied, self.waits = 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result, name = function(*args, **(kwargs or {})), function.overloadpacket.__name__
        self.calls += 1
        self.waits += name == "_local_scalar_dense"  # a tensor's value is asked for: on a GPU all would stop for it
        if name in COPIES:
            self.copied += result.numel() * result.element_size()
        return result


@pytest.fixture(scope="module")
def stepper() -> Stepper:
    config = magnet.recipe("magnet_tiny")
    config = replace(config, optim=replace(config.optim, precision="float32"))  # counts alike on every processor
    stepper = Stepper(config, batch_size=2)
    stepper.seconds(0)  # what is made once is made
    return stepper


@pytest.fixture(scope="module")
def counted(stepper) -> Counter:
    with Counter() as counter:
        stepper.seconds(1)
    return counter


def test_arithmetic_of_a_step(stepper):
    with FlopCounterMode(display=False) as counter:
        stepper.seconds(1)
    assert counter.get_total_flops() / 12 < GFLOP * 1e9  # twelve sentences


def test_operator_calls_of_a_step(counted):
    assert counted.calls < CALLS


def test_bytes_copied_in_a_step(counted):
    assert counted.copied / 12 < MEGABYTES * 1e6


def test_a_step_waits_for_no_value(counted):
    assert counted.waits == 0


def test_sentences_of_a_picture_share_what_comes_before_words(stepper):
    def forward(images):
        with FlopCounterMode(display=False) as counter:
            stepper.objective.model(images, *(stepper.batch[name] for name in ("token_ids", "token_mask")))
        return counter.get_total_flops()

    images = stepper.batch["images"]
    assert forward(images.repeat(6, 1, 1, 1)) > 1.5 * forward(images)


@pytest.fixture
def small_machine(monkeypatch) -> list[str]:
    """Peaks that take no time; their names."""
    monkeypatch.setitem(machine.GEMM, "cpu", 64)
    monkeypatch.setitem(machine.COPY, "cpu", 2**16)
    return list(machine.works(torch.device("cpu")))


def test_the_table_of_speeds(small_machine):
    table = speed.measure_speed(("magnet_tiny",), rounds=2, progress=False).set_index("what")
    names = ["loader", "forward", "step", "evaluation", "one answer"]
    rows = [*small_machine, *(f"magnet_tiny: {name}" for name in names), "peak memory"]
    assert list(table.index) == rows
    assert (table["rate"] > 0).all() and (table["median_seconds"].iloc[:-1] >= table["seconds"].iloc[:-1]).all()
    step, forward = table.loc["magnet_tiny: step"], table.loc["magnet_tiny: forward"]
    assert step["rate"] == pytest.approx(96 / step["seconds"]) and step["seconds"] > forward["seconds"]
    assert table["share_of_peak"].notna().sum() == 2


def test_peaks_are_of_what_the_hardware_has(small_machine):
    found = machine.peaks(torch.device("cpu"))
    assert ("gemm bfloat16" in found) == has_bfloat16(torch.device("cpu"))
    assert {"gemm float32", "copy"} <= set(found) and min(found.values()) > 0


def test_a_peak_stays_when_its_memory_is_given_back():
    lines = ["import torch", "from magnet.workbench.machine import peak_memory_gb as peak", "before = peak()"]
    lines += ["torch.ones(700_000_000, dtype=torch.uint8)", "print(before, peak())"]
    child = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    before, after = map(float, child.stdout.split())
    assert after == pytest.approx(before + 0.7, rel=0.1)  # a process of its own: this one may have held more already


def test_memory_is_this_process_own():
    code = "from magnet.workbench.machine import peak_memory_gb; print(peak_memory_gb())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    held = torch.ones(2_000_000_000, dtype=torch.uint8)  # what a process that starts another has is not the other's
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(again.stdout) == pytest.approx(float(child.stdout), rel=0.2) and len(held)


def test_where_the_time_goes(small_machine):
    table = time_spent.time_spent(magnet.recipe("magnet_tiny"), batch_size=1, rounds=2, num=2, shown=False)
    assert set(table["work"]) == {"forward", "step", "evaluation"} and (table["recipe"] == "magnet_tiny").all()
    assert table.groupby("work")["rounds"].first().to_dict() == {"forward": 2, "step": 1, "evaluation": 1}
    assert list(table["name"][table["by"] == "machine"]) == 3 * small_machine
    for work, rows in table.groupby("work"):
        whole = rows[rows["by"] == "whole"].iloc[0]
        assert whole["rate"] > 0 and whole["share"] > 0
        for by in ("module", "kind"):
            parts = rows[rows["by"] == by]
            assert parts["share"].sum() == pytest.approx(1) and parts["name"].is_unique
            assert parts["seconds"].sum() == pytest.approx(whole["seconds"], rel=0.5)  # medians of two rounds
            assert (parts["backward"].sum() > 0) == (work == "step")
    names = table[table["by"] == "module"].groupby("work")["name"].agg(set)
    network = {"vision, layer3", "language", "image sides", "text sides", "pixel decoder", "query decoder", "detail"}
    assert all(network <= met for met in names)
    assert {"losses", "optimizer"} <= names["step"] and {"files", "scores"} <= names["evaluation"]
    assert not {"losses", "optimizer", "files", "scores"} & names["forward"]


class TwoParts(torch.nn.Module):
    """A product worth measuring, recomputed in the backward pass, and a convolution that costs little beside it."""

    def __init__(self):
        super().__init__()
        self.large, self.small = torch.nn.Linear(700, 700), torch.nn.Conv1d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.small(checkpoint(self.large, x, use_reentrant=False)[:1, None])


def test_a_backward_pass_belongs_to_the_module_that_it_goes_through():
    model, x = TwoParts(), torch.randn(900, 700)
    stepper = SimpleNamespace(objective=model, device=torch.device("cpu"))
    spent = time_spent.profiled(lambda: model(x).sum().backward(), stepper)
    products = {key: s for key, s in spent.items() if key[1] == "matrix products"}
    assert {key[0] for key in products} == {"large"} and {key[2] for key in products} == {True, False}
    assert {key[0] for key in spent if key[1] == "convolutions"} == {"small"}
    assert all(spent["large", "matrix products", way] > 0 for way in (False, True))


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::addmm", "matrix products"), ("aten::_softmax", "attention"),
        ("aten::convolution_backward", "convolutions"), ("aten::index_put_", "copies and layout"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"), ("aten::native_layer_norm", "norms"),
        ("aten::linalg_vector_norm", "elementwise and sums"), ("aten::copy_", "copies and layout"),
        ("aten::grid_sampler_2d_backward", "sampling"), ("aten::_fused_adamw_", "elementwise and sums"),
        ("aten::transpose", time_spent.VIEWS), ("_ReadingBackward", "sampling"), ("OtherBackward", time_spent.OUTSIDE),
        ("aten::mm", "matrix products"), ("aten::min", "elementwise and sums"),
    ],
)  # fmt: skip
def test_kinds_of_operations(operator, kind):
    assert time_spent._kind(operator) == kind


def test_under_autocast_the_machines_float32_is_float32(monkeypatch):
    kinds, cpu = [], torch.device("cpu")
    monkeypatch.setattr(machine, "GEMM", {"cpu": 8})
    monkeypatch.setattr(machine, "seconds", lambda work, device: kinds.append(work().dtype) or 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert list(machine.peaks(cpu)) == list(machine.works(cpu))
    assert kinds[:3] == [torch.float32] * 3
