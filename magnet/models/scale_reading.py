"""Reading maps of several scales at free positions: what deformable attention spends its time on.

Two ways with equal numbers: `by_grid`, the plain one, with the library's bilinear sampling, and `by_rows`, taken on a
CPU where many positions are read. benchmarks/full_size.py times both.
"""

import scipy.sparse
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Sizes = list[tuple[int, int]]  # (H_i, W_i) of every scale, in the order of the tokens
_QUERIES_AT_A_TIME = 512


def read_scales(value: Tensor, sizes: Sizes, position: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear readings, float32; outside a map there are zeros.

    Values (B,N,heads,d), positions (B,Q,heads,scales,points,2) as x and y in pixels of each scale with 0 at the first
    pixel's centre, weights (B,Q,heads,scales,points) -> (B,Q,heads,d).
    """
    many = position.shape[1] > _QUERIES_AT_A_TIME  # for few, the table costs what its rows save
    way = by_rows if many and value.device.type == "cpu" else by_grid
    return way(value.float(), sizes, position.float(), weights.float())


def by_grid(value: Tensor, sizes: Sizes, position: Tensor, weights: Tensor) -> Tensor:
    """`read_scales` by the library's bilinear sampling of one scale after another.

    On a CPU some queries at a time, as what all of them read would not fit a processor's cache.
    """
    lengths = [height * width for height, width in sizes]
    maps = [
        part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, size)  # (B·heads,d,H_i,W_i)
        for part, size in zip(value.split(lengths, dim=1), sizes)
    ]
    extent = position.new_tensor([(width, height) for height, width in sizes])[:, None]  # (scales,1,2)
    grid = 2 * (position + 0.5) / extent - 1
    grids, shares = (x.permute(3, 0, 2, 1, *range(4, x.ndim)).flatten(1, 2) for x in (grid, weights))
    some = _QUERIES_AT_A_TIME if value.device.type == "cpu" else position.shape[1]  # a GPU would wait for its orders
    parts = zip(grids.split(some, dim=2), shares.split(some, dim=2))
    read = torch.cat([_sample(maps, *part) for part in parts], dim=2)  # (B·heads,d,Q)
    return read.unflatten(0, (len(value), -1)).permute(0, 3, 1, 2)


def _sample(maps: list[Tensor], grids: Tensor, shares: Tensor) -> Tensor:
    """Maps (n,d,H_i,W_i), for each a grid (n,q,points,2) from -1 to 1 and shares (n,q,points) -> (n,d,q)."""
    total = torch.zeros((), device=shares.device)
    for x, grid, share in zip(maps, grids, shares):
        total = torch.addcmul(total, F.grid_sample(x, grid, align_corners=False), share[:, None])
    return total.sum(-1) if total.shape[-1] > 1 else total[..., 0]  # a sum over one would be a copy


def by_rows(value: Tensor, sizes: Sizes, position: Tensor, weights: Tensor) -> Tensor:
    """`read_scales` as sums of weighted rows of one table: four rows, the pixels around it, for each position.

    Every map has a border of zeros, one pixel wide before and two after, and positions stay within it: so nothing has
    to ask whether a pixel lies outside, and a position outside has no gradient.
    """
    parts = zip(value.split([height * width for height, width in sizes], dim=1), sizes)
    maps = [F.pad(part.unflatten(1, size), (0, 0, 0, 0, 1, 2, 1, 2)).flatten(1, 2) for part, size in parts]
    table = torch.cat(maps, dim=1)  # (B,N',heads,d)
    some = zip(position.split(_QUERIES_AT_A_TIME, dim=1), weights.split(_QUERIES_AT_A_TIME, dim=1))
    corners = [_corners(sizes, *part) for part in some]
    rows, shares = (torch.cat(part, dim=1).flatten(3).flatten(0, 2) for part in zip(*corners))
    return _WeightedRows.apply(table.flatten(0, 2), rows, shares).view(*position.shape[:3], -1)


def _corners(sizes: Sizes, position: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Of each position the four pixels around it as int32 rows of the table, and each one's share of the sum.

    Both (B,Q,heads,4,P), P = scales·points: corners before what is read, as such pieces are put together quickest.
    """
    size = torch.tensor(sizes, dtype=torch.int).repeat_interleave(weights.shape[4], dim=0)  # (P,2)
    position, weights = position.flatten(3, 4), weights.flatten(3)
    position = position.clamp(min=-1).minimum(size.flip(-1).float())
    corner = position.detach().floor().nan_to_num(-1)  # what is no number stays so in the shares
    right, low = (position - corner).unbind(-1)
    right, left = weights * right, weights - weights * right
    right_low, left_low = right * low, left * low
    shares = torch.stack([left - left_low, right - right_low, left_low, right_low], dim=3)
    return _rows(corner.int(), size + 3, len(sizes)), shares


def _rows(corner: Tensor, size: Tensor, num_scales: int) -> Tensor:
    """Corners (B,Q,heads,P,2) on bordered maps of a size (P,2) -> rows (B,Q,heads,4,P) of the table.

    The table holds images, in them maps, in them pixels, in them heads.
    """
    (num_images, _, num_heads, num_points, _), (height, width) = corner.shape, size.T
    areas = (height * width)[:: num_points // num_scales]
    begin = (areas.cumsum(0, dtype=torch.int) - areas).repeat_interleave(num_points // num_scales)
    image, head = (torch.arange(n, dtype=torch.int)[:, None] for n in (num_images, num_heads))
    start = (image[:, None] * areas.sum(dtype=torch.int) + begin + width + 1) * num_heads + head  # (B,heads,P)
    first = start[:, None].addcmul(corner[..., 1], width * num_heads).add_(corner[..., 0], alpha=num_heads)
    steps = torch.stack([0 * width, 0 * width + 1, width, width + 1]) * num_heads  # (4,P)
    return first[:, :, :, None] + steps


class _WeightedRows(torch.autograd.Function):
    """`embedding_bag` of a table (R,d), rows (n,k) int32 and shares (n,k) -> (n,d), with a quicker way back.

    The table's gradient is the same sum with rows and results exchanged; the library would sort all rows for it.
    """

    @staticmethod
    def forward(ctx, table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(table, rows, shares)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, Tensor]:
        table, rows, shares = ctx.saved_tensors
        with torch.enable_grad():
            leaf = shares.detach().requires_grad_()
            read = F.embedding_bag(rows, table.detach(), mode="sum", per_sample_weights=leaf)
        (of_shares,) = torch.autograd.grad(read, leaf, gradient)
        return _exchanged(rows, shares, len(table), gradient.contiguous()), None, of_shares


def _exchanged(rows: Tensor, shares: Tensor, num_rows: int, gradient: Tensor) -> Tensor:
    """Sum for each of the R rows what reached the results (n,d) that it went into -> (R,d)."""
    ends = torch.arange(rows.numel() + 1, dtype=torch.int)[:: rows.shape[1]]
    matrix = scipy.sparse.csr_array(
        (shares.flatten().numpy(), rows.flatten().numpy(), ends.numpy()), (len(rows), num_rows)
    )
    matrix = matrix.tocsc()  # sorted by row of the table, in linear time
    share, result, start = map(torch.from_numpy, (matrix.data, matrix.indices, matrix.indptr[:-1]))
    return F.embedding_bag(result, gradient, start, mode="sum", per_sample_weights=share)
