"""Swin's attention within shifted windows, as its authors released it: padding before rolling.

Two ways with equal numbers: `attend_plainly`, timm's own steps on the padded map, and `attend`, which spends no product
of its linear layers on padding.
"""

from functools import lru_cache

import torch
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention, window_partition, window_reverse
from torch import Tensor
from torch.nn import functional as F


class PadThenRollBlock(SwinTransformerBlock):
    """timm's Swin block, with the released order of steps in its attention. Of `attn`, timm's WindowAttention, only the
    parts are called, so a hook on it as a whole hears nothing."""

    def _attn(self, x: Tensor) -> Tensor:
        return attend(self, x)


def attend_plainly(block: PadThenRollBlock, x: Tensor) -> Tensor:
    """Map (B,H,W,C) -> map (B,H,W,C): pad, roll, attend, roll back, crop."""
    (height, width), window = x.shape[1:3], block.window_size
    block.attn.fused_attn = False
    rolled = _roll(_pad(x, window), block.shift_size)
    windows = block.attn(window_partition(rolled, window).flatten(1, 2), _mask(block, rolled))
    rolled = window_reverse(windows.unflatten(1, window), window, *rolled.shape[1:3])
    return _roll(rolled, [-amount for amount in block.shift_size])[:, :height, :width]


def attend(block: PadThenRollBlock, x: Tensor) -> Tensor:
    """`attend_plainly` with the linear layers before and after on the map's own pixels alone."""
    (height, width), attention = x.shape[1:3], block.attn
    rolled = _roll(_pad(attention.qkv(x), block.window_size, attention.qkv.bias), block.shift_size)
    query, key, value = _to_heads(rolled, block.window_size, attention.num_heads)
    read = _read(attention, query, key, value, _mask(block, rolled))
    back = _roll(_from_heads(read, block.window_size, rolled.shape[1]), [-amount for amount in block.shift_size])
    return attention.proj_drop(attention.proj(back[:, :height, :width].contiguous()))  # in one piece, in one product


def _pad(x: Tensor, window: tuple[int, int], padding: Tensor | None = None) -> Tensor:
    """Map (B,H,W,C) to whole windows, at the bottom and right, with `padding` (C,) or zeros."""
    height, width = (size + -size % w for size, w in zip(x.shape[1:3], window))
    if (height, width) == x.shape[1:3]:
        return x
    if padding is None:
        return F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1]))
    padded = padding.to(x.dtype).expand(len(x), height, width, -1).contiguous()
    padded[:, : x.shape[1], : x.shape[2]] = x
    return padded


def _roll(x: Tensor, amounts: tuple[int, int]) -> Tensor:
    """A map (B,H,W,C) moved up and left by so many pixels."""
    return torch.roll(x, [-amount for amount in amounts], dims=(1, 2)) if any(amounts) else x


def _to_heads(x: Tensor, window: tuple[int, int], heads: int) -> tuple[Tensor, ...]:
    """Map (B,H,W,3·heads·d) -> queries, keys and values (B,windows,heads,area,d), each in one piece of memory."""
    x = x.unflatten(3, (3, heads, -1)).unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.permute(5, 0, 1, 3, 6, 2, 4, 7).contiguous().flatten(5, 6).flatten(2, 3).unbind(0)


def _from_heads(x: Tensor, window: tuple[int, int], height: int) -> Tensor:
    """(B,windows,heads,area,d) -> map (B,H,W,heads·d) of a height H."""
    x = x.unflatten(3, window).unflatten(1, (height // window[0], -1))
    return x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def _read(attention: WindowAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """What queries (B,windows,heads,area,d) read, of the same shape, by position bias and mask (windows,area,area)."""
    bias, drop = attention._get_rel_pos_bias(), attention.attn_drop
    bias = bias if mask is None else bias + mask[:, None]  # (1 or windows,heads,area,area)
    if _fused_is_faster(query):
        given = (x.flatten(0, 1) for x in (query, key, value, bias.expand(*query.shape[:2], *bias.shape[1:])))
        read = F.scaled_dot_product_attention(*given, dropout_p=drop.p if drop.training else 0.0)
        return read.view(query.shape)
    scores = (query * attention.scale @ key.transpose(3, 4)).float()
    scores.add_(bias)  # in place, as no tensor is larger and the way back does not need what it was
    return drop(scores.softmax(-1)).to(value.dtype) @ value


def _fused_is_faster(x: Tensor) -> bool:
    """A CPU's fused attention gives the position bias no gradient: where one is asked for, the library goes another
    way, slower than the plain one. In bfloat16 it takes longer than its two products and the softmax."""
    return x.is_cuda or not (torch.is_grad_enabled() or x.dtype == torch.bfloat16)


def _mask(block: PadThenRollBlock, x: Tensor) -> Tensor | None:
    """Of a padded map (B,H,W,C), `shifted_window_mask`; none where windows are not shifted."""
    window, shift = block.window_size, block.shift_size
    return shifted_window_mask(*x.shape[1:3], window, shift, x.device) if any(shift) else None


@lru_cache(maxsize=64)
def shifted_window_mask(height: int, width: int, window: tuple, shift: tuple, device: torch.device) -> Tensor:
    """(num_windows, window area, window area) float32: far below 0 between positions that rolling made neighbours,
    else 0.

    The released networks have -100, after which softmax leaves about 1e-44: nothing to the sums, but a number that
    CPUs multiply far more slowly. So there it is -inf; a GPU's fused attention was not tried with that.
    """
    with torch.inference_mode(False):  # the cached tensor must serve training, too
        rows, columns = (_region(size, w, s, device) for size, w, s in zip((height, width), window, shift))
        regions = window_partition((3 * rows[:, None] + columns)[None, :, :, None], window).flatten(1)
        apart = regions[:, None, :] != regions[:, :, None]
        return torch.zeros(apart.shape, device=device).masked_fill_(apart, -torch.inf if device.type == "cpu" else -100)


def _region(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(size,) 0, 1 or 2: before the last window, in it, and in its part that wrapped around."""
    position = torch.arange(size, device=device)
    return (position >= size - window).long() + (position >= size - shift).long()
