"""Linear layers whose weights lie ready for a CPU's matrix product in bfloat16, wherever no gradient is asked for.

At each call torch rearranges a layer's weights, copies its bias into the output and adds the product to that. In
evaluation weights stay as they are: arranged once, and with the bias added within the product, that takes a tenth to a
third less. The operators are oneDNN's as torch.compile calls them; plain torch has no public name for them.
"""

import torch
from torch import Tensor, nn

from magnet.optimizer import has_bfloat16

_FEW_ROWS = 256  # a product of so few takes no time worth this


class PackedLinear(nn.Linear):
    """nn.Linear; under autocast to bfloat16 on a CPU, without gradients, by weights that were arranged before."""

    _packed, _of = None, None

    def forward(self, x: Tensor) -> Tensor:
        if not _is_for_packing(x, self.weight):
            return super().forward(x)
        of = self.weight.data_ptr(), self.weight._version
        if self._of != of:
            self._of, self._packed = of, torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().bfloat16())
        return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self._packed, self.bias, "none", [], "")

    def __getstate__(self) -> dict:
        """Copies and files do not take the arranged weights along."""
        return {name: value for name, value in super().__getstate__().items() if name not in ("_packed", "_of")}


def pack_linear(network: nn.Module) -> None:
    """Have every nn.Linear of a network be a `PackedLinear`, with the same parameters under the same names."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = PackedLinear


def _there() -> bool:
    return has_bfloat16(torch.device("cpu")) and torch.backends.mkldnn.is_available()


def _is_for_packing(x: Tensor, weight: Tensor) -> bool:
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not (x.device.type == "cpu" and _there()):
        return False
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    known = weight.dtype == torch.float32 and not weight.is_inference()  # the latter do not say whether they changed
    return autocast and known and x.numel() >= _FEW_ROWS * x.shape[-1]
