"""Linear layers whose weights lie ready for a product in bfloat16: the same numbers, and nothing that stays."""

import copy
import pickle

import pytest
import torch
from conftest import tiny_config
from torch import nn

import magnet
from magnet.evaluate import evaluation_in
from magnet.optimizer import has_bfloat16
from magnet.packed_linear import packed

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not has_bfloat16(CPU), reason="this CPU does not multiply bfloat16")


@pytest.fixture(params=[True, False])
def layer(request) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=request.param)
    layer.weight.data = layer.weight.data.bfloat16().float()  # so that products differ by the result's rounding alone
    return layer


def ask(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), evaluation_in("bfloat16", layer, CPU):
        return layer(x)


def is_near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.dtype == torch.bfloat16 and torch.allclose(found.float(), expected, rtol=2**-8, atol=2e-3)


@pytest.mark.parametrize("shape", [(300, 24), (2, 20, 15, 24), (24,)])
def test_numbers_are_those_of_float32_rounded_once(layer, shape):
    x = torch.randn(shape).bfloat16().float()
    assert is_near(ask(layer, x), layer(x))
    strewn = torch.randn(24, 300).bfloat16().float().T
    assert is_near(ask(layer, strewn), layer(strewn))


def test_arranged_once_and_forgotten_at_the_end(layer):
    x, known = torch.randn(300, 24), list(vars(layer))
    with torch.no_grad(), evaluation_in("bfloat16", layer, CPU):
        layer(x)
        arranged = layer._arranged
        layer(x)
        assert arranged is not None and layer._arranged is arranged
        with packed(layer):  # within one another
            assert layer(x).dtype == torch.bfloat16
        assert layer._arranged is arranged
    assert type(layer) is nn.Linear and list(vars(layer)) == known
    with pytest.raises(KeyboardInterrupt), evaluation_in("bfloat16", layer, CPU):
        raise KeyboardInterrupt
    assert type(layer) is nn.Linear


@pytest.mark.parametrize("fused", [False, True])
def test_weights_that_a_step_changed_are_the_ones_that_are_asked(layer, fused):
    x, optimizer = torch.randn(300, 24).bfloat16().float(), torch.optim.AdamW(layer.parameters(), lr=0.5, fused=fused)
    before = ask(layer, x)
    layer(x).square().mean().backward()
    optimizer.step()
    layer.weight.data = layer.weight.data.bfloat16().float()
    assert is_near(ask(layer, x), layer(x)) and not is_near(before, layer(x))
    layer.weight.data.mul_(2)  # of which torch keeps no account
    assert is_near(ask(layer, x), layer(x))


def test_training_and_float32_within_it_go_the_usual_way(layer):
    x = torch.randn(300, 24)
    with evaluation_in("bfloat16", layer, CPU):
        assert layer(x).requires_grad
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            assert layer(x).dtype == torch.float32
    with torch.no_grad(), evaluation_in("float32", layer, CPU):
        assert type(layer) is nn.Linear and torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_wrong_widths_are_refused(layer):
    with pytest.raises(RuntimeError):
        ask(layer, torch.randn(300, 25))


def test_a_network_is_as_it_was_after_an_evaluation():
    config = tiny_config()
    model = magnet.build_model(config.model)
    kinds = [type(m) for m in model.modules()]
    with evaluation_in("bfloat16", model, CPU):
        assert sum(type(m) is not kind for m, kind in zip(model.modules(), kinds)) == kinds.count(nn.Linear) > 5
        copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert [type(m) for m in model.modules()] == kinds
    assert all(map(torch.equal, copied.state_dict().values(), model.state_dict().values()))
