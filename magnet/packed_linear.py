"""Linear layers whose weights lie ready for a CPU's matrix product in bfloat16, for as long as a network is only asked.

At each call torch rearranges a layer's weights, copies its bias into the output and adds the product to that. While
weights stay as they are they can be arranged once, and the bias added within the product. The operators are oneDNN's as
torch.compile calls them; plain torch has no public name for them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from magnet.optimizer import has_bfloat16

_FEW_ROWS = 256  # a product of so few takes no time worth this


@contextmanager
def packed(network: nn.Module) -> Iterator[None]:
    """Within it no weight of the network may change: its linear layers arrange theirs when they are first asked, and
    forget that at the end. Only under autocast to bfloat16 on a CPU that multiplies it; else nothing happens."""
    layers = [module for module in network.modules() if type(module) is nn.Linear] if _is_worth_it() else []
    for layer in layers:
        layer.__class__ = _PackedLinear
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear
            vars(layer).pop("_arranged", None)


def _is_worth_it() -> bool:
    there = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled and has_bfloat16(torch.device("cpu"))
    return there and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


class _PackedLinear(nn.Linear):
    """Where gradients are switched off and autocast is on; elsewhere nn.Linear."""

    _arranged = None

    def forward(self, x: Tensor) -> Tensor:
        rough = torch.is_autocast_enabled("cpu") and x.device.type == "cpu" and self.weight.device == x.device
        if not rough or torch.is_grad_enabled() or x.numel() < _FEW_ROWS * x.shape[-1]:
            return super().forward(x)
        if self._arranged is None:
            self._arranged = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().bfloat16())
        return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self._arranged, self.bias, "none", [], "")
