"""What a training step of magnet_tiny costs, in counts: seconds are noisy, so these guard against waste coming back."""

from dataclasses import replace

import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import magnet
from magnet.workbench import speed
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


def test_the_table_of_speeds(monkeypatch):
    monkeypatch.setattr(speed, "_GEMM", 64)
    monkeypatch.setattr(speed, "_COPY", 2**16)
    table = speed.measure_speed(("magnet_tiny",), rounds=2, progress=False).set_index("what")
    names = ["loader", "forward", "step", "evaluation", "one answer"]
    rows = [*speed.PEAKS, "copy", *(f"magnet_tiny: {name}" for name in names), "peak memory"]
    assert list(table.index) == rows
    assert (table["rate"] > 0).all() and (table["median_seconds"].iloc[:-1] >= table["seconds"].iloc[:-1]).all()
    step, forward = table.loc["magnet_tiny: step"], table.loc["magnet_tiny: forward"]
    assert step["rate"] == pytest.approx(96 / step["seconds"]) and step["seconds"] > forward["seconds"]
    assert table["share_of_peak"].notna().sum() == 2


def test_the_table_of_modules():
    config = magnet.recipe("magnet_tiny")
    table = speed.module_times(replace(config, optim=replace(config.optim, batch_size=1)), repeats=1)
    names = set(table["module"])
    assert {"pixel_decoder", "query_decoder", "detail", "image_sides.0", "text_sides.1", "vision.body.layer3"} <= names
    network = magnet.build_model(config.model)
    covered = [name for name, _ in network.named_parameters() if any(name.startswith(f"{part}.") for part in names)]
    missed = {name for name, _ in network.named_parameters()} - set(covered)
    assert not missed  # no parameter of the network is in a part that nobody timed
    assert table["share"].sum() == pytest.approx(1) and (table["forward_ms"] > 0).all()
