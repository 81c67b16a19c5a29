"""Reading maps of several scales at free positions: what deformable attention spends its time on.

Two ways with equal numbers: `by_grid`, the plain one, with the library's bilinear sampling, and `by_loops`, taken on a
CPU for many queries. benchmarks/full_size.py times both.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

Sizes = list[tuple[int, int]]  # (H_i, W_i) of every scale, in the order of the tokens
_FEW_QUERIES = 512


def read_scales(value: Tensor, sizes: Sizes, position: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear readings, float32; outside a map there are zeros.

    Values (B,N,heads,d), positions (B,Q,heads,scales,points,2) as x and y in pixels of each scale with 0 at the first
    pixel's centre, weights (B,Q,heads,scales,points) -> (B,Q,heads,d).
    """
    plain = value.device.type != "cpu" or torch.compiler.is_compiling()  # torch compiles operators of its own alone
    way = by_grid if plain or position.shape[1] <= _FEW_QUERIES else _by_loops
    return way(value, sizes, position.float(), weights.float())


def _by_loops(*given) -> Tensor:
    """Imported where it is used: it brings a compiler, whose memory in each process few queries are not worth."""
    from magnet.models.scale_loops import by_loops

    return by_loops(*given)


def by_grid(value: Tensor, sizes: Sizes, position: Tensor, weights: Tensor) -> Tensor:
    """`read_scales` by the library's bilinear sampling of one scale after another."""
    lengths = [height * width for height, width in sizes]
    maps = [
        part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, size)  # (B·heads,d,H_i,W_i)
        for part, size in zip(value.float().split(lengths, dim=1), sizes)
    ]
    extent = position.new_tensor([(width, height) for height, width in sizes])[:, None]  # (scales,1,2)
    grid = 2 * (position + 0.5) / extent - 1
    grids, shares = (x.permute(3, 0, 2, 1, *range(4, x.ndim)).flatten(1, 2) for x in (grid, weights))
    total = torch.zeros((), device=value.device)
    for x, at, share in zip(maps, grids, shares):  # (B·heads,Q,points,2), (B·heads,Q,points)
        total = torch.addcmul(total, F.grid_sample(x, at, align_corners=False), share[:, None])
    read = total.sum(-1) if total.shape[-1] > 1 else total[..., 0]  # (B·heads,d,Q); a sum over one would be a copy
    return read.unflatten(0, (len(value), -1)).permute(0, 3, 1, 2)
