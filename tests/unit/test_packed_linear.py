"""Linear layers whose weights lie ready for a product in bfloat16: the same numbers, never of weights that were."""

import copy
import pickle

import pytest
import torch
from conftest import tiny_magnet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import magnet
from magnet.models.packed_linear import PackedLinear, pack_linear
from magnet.optimizer import has_bfloat16
from magnet.workbench import benchmark  # noqa: F401  what it counts

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not has_bfloat16(CPU), reason="this CPU does not multiply bfloat16")


@pytest.fixture(params=[True, False])
def layer(request) -> PackedLinear:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(24, 40, bias=request.param))
    pack_linear(layer)
    return layer[0]


def ask(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return layer(x)


@pytest.mark.parametrize("shape", [(300, 24), (2, 20, 15, 24), (24,)])
def test_numbers_are_those_of_float32_rounded_once(layer, shape):
    x = torch.randn(shape).bfloat16().float()
    layer.weight.data = layer.weight.data.bfloat16().float()  # so rounding the result is all that differs
    with torch.no_grad():
        expected = layer(x)
    read = ask(layer, x)
    assert read.dtype == torch.bfloat16 and (layer._packed is not None) == (x.numel() > 24)
    torch.testing.assert_close(read.float(), expected, rtol=2**-8, atol=2e-3)


def test_changed_weights_are_arranged_anew(layer):
    x = torch.randn(300, 24)
    before = ask(layer, x)
    with torch.no_grad():
        layer.weight.mul_(2)
    doubled = ask(layer, x) - before
    expected = before if layer.bias is None else before - layer.bias
    torch.testing.assert_close(doubled.float(), expected.float(), rtol=0.02, atol=0.02)
    layer.weight = nn.Parameter(torch.zeros_like(layer.weight))
    assert not ask(layer, x).any() or layer.bias is not None


def test_training_float32_and_weights_without_history_go_the_usual_way(layer):
    x = torch.randn(300, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).requires_grad
    with torch.no_grad():
        assert layer(x).dtype == torch.float32
    with torch.inference_mode():
        unknown = PackedLinear(24, 40)
    ask(unknown, x)
    assert layer._packed is None and unknown._packed is None


def test_copies_and_files_hold_no_arranged_weights(layer):
    x = torch.randn(300, 24)
    expected = ask(layer, x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other._packed is None and list(other.state_dict()) == list(layer.state_dict())
        assert torch.equal(ask(other, x), expected)


def test_all_linear_layers_of_a_network_and_their_work_counts():
    model = magnet.build_model(tiny_magnet().model)
    kinds = {type(m) for m in model.modules() if isinstance(m, nn.Linear)}
    assert PackedLinear in kinds and nn.Linear not in kinds
    counts, x = [], torch.randn(3, 100, 24)
    for layer in (nn.Linear(24, 40).requires_grad_(False), PackedLinear(24, 40).requires_grad_(False)):
        with FlopCounterMode(display=False) as counter:
            ask(layer, x)
        counts.append(counter.get_total_flops())
    assert counts == [2 * 300 * 24 * 40] * 2
