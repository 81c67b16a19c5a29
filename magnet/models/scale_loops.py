"""`read_scales` on a CPU: loops over all that is read, compiled by Numba when they are first needed, then kept on disk.

Every map lies in a border of zeros, one pixel wide before and two after, and positions stay within it: so no loop has
to ask whether a pixel lies outside. What is read at no number is none. The loops share a file because Numba compiles
them anew when their own file changes, and no other.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from magnet.models.scale_reading import Sizes

_BORDER = 3
_PER_THREAD = 2**17  # positions: with fewer, waiting for a core that torch's own threads still hold takes longer
_ZERO, _ONE = np.float32(0), np.float32(1)  # beside numbers of Python's the compiled arithmetic would be in float64


def by_loops(value: Tensor, sizes: Sizes, position: Tensor, weights: Tensor) -> Tensor:
    """`read_scales` of float32 on a CPU. Raises ValueError for shapes that do not go together."""
    lengths = [height * width for height, width in sizes]
    shape = (len(value), position.shape[1], value.shape[2], len(sizes), weights.shape[-1])
    if value.shape[1] != sum(lengths) or weights.shape != shape or position.shape != (*shape, 2):
        found = ", ".join(str(tuple(x.shape)) for x in (value, position, weights))
        raise ValueError(f"values, positions and weights of {found} do not go together for maps of {sizes}")
    parts = zip(value.split(lengths, dim=1), sizes)
    maps = [F.pad(part.transpose(1, 2).unflatten(2, size), (0, 0, 1, 2, 1, 2)).flatten(2, 3) for part, size in parts]
    points = _points(sizes, weights.shape[4])
    return _Reading.apply(torch.cat(maps, dim=2), points, position.flatten(3, 4), weights.flatten(3))


def _points(sizes: Sizes, per_scale: int) -> np.ndarray:
    """(P,3) int32: of each point that a query reads where its map begins among all, numbers of its rows and columns."""
    areas = [(height + _BORDER) * (width + _BORDER) for height, width in sizes]
    begins = np.cumsum([0, *areas[:-1]])
    return np.column_stack([begins, sizes]).astype(np.int32).repeat(per_scale, axis=0)


class _Reading(torch.autograd.Function):
    """Maps (B,heads,N',d), points (P,3), positions (B,Q,heads,P,2), weights (B,Q,heads,P) -> (B,Q,heads,d)."""

    @staticmethod
    def forward(ctx, maps: Tensor, points: np.ndarray, position: Tensor, weights: Tensor) -> Tensor:
        given = maps.contiguous(), position.contiguous(), weights.contiguous()
        ctx.points = points
        ctx.save_for_backward(*given)
        read = weights.new_empty(*weights.shape[:3], maps.shape[3])
        _share_out(_read, points, *given, read)
        return read

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        given = ctx.saved_tensors
        of_maps, of_position, of_weights = torch.zeros_like(given[0]), *map(torch.empty_like, given[1:])
        _share_out(_read_back, ctx.points, *given, gradient.contiguous(), of_maps, of_position, of_weights)
        return of_maps, None, of_position, of_weights


def _share_out(loops: Callable, points: np.ndarray, maps: Tensor, position: Tensor, weights: Tensor, *others) -> None:
    """Every thread takes some heads of some images: no two ever add to the same map."""
    arrays = [tensor.detach().numpy() for tensor in (maps, position, weights, *others)]
    units = maps.shape[0] * maps.shape[1]
    threads = max(1, min(torch.get_num_threads(), units, weights.numel() // _PER_THREAD))
    ends = [units * thread // threads for thread in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda begin, end: loops(begin, end, points, *arrays), ends, ends[1:]))


def _compiled(loops: Callable) -> Callable:
    """Without Python's lock, so that threads help; terms of a sum may be put together in any order."""
    compiled = partial(numba.njit, nogil=True, fastmath={"reassoc", "contract", "nsz"})
    try:
        return compiled(cache=True)(loops)
    except RuntimeError:  # no folder to keep it in that can be written
        return compiled()(loops)


@_compiled
def _around(at, size):
    """The pixel before a place along a map, border counted, and how far behind it that is, 0 to 1."""
    inside = _ONE + (-_ONE if at < -_ONE else np.float32(size) if at > size else at)
    pixel = np.int32(inside) if inside >= _ZERO else np.int32(0)
    return pixel, inside - np.float32(pixel)


@_compiled
def _corners(point, at):
    """The four pixels around x and y, row by row, and how far right of the first and below it the place lies."""
    begin, height, width = point[0], point[1], point[2]
    (column, right), (row, down) = _around(at[0], width), _around(at[1], height)
    corner = np.uint64(begin + row * (width + _BORDER) + column)  # without a sign: no loop looks for negative ones
    below = corner + np.uint64(width + _BORDER)
    return corner, corner + np.uint64(1), below, below + np.uint64(1), right, down


@_compiled
def _shares(weight, right, down):
    """What each of the four pixels has in what is read."""
    upper, lower = weight * (_ONE - down), weight * down
    return upper * (_ONE - right), upper * right, lower * (_ONE - right), lower * right


@_compiled
def _read(begin, end, points, maps, position, weights, read):
    num_queries, num_heads, num_points = weights.shape[1:]
    for unit in range(begin, end):
        b, h = np.uint64(unit // num_heads), np.uint64(unit % num_heads)
        for q in range(num_queries):
            read[b, q, h] = 0
            for p in range(num_points):
                i, j, k, m, right, down = _corners(points[p], position[b, q, h, p])
                of_i, of_j, of_k, of_m = _shares(weights[b, q, h, p], right, down)
                for c in range(maps.shape[3]):
                    row = of_i * maps[b, h, i, c] + of_j * maps[b, h, j, c]
                    read[b, q, h, c] += row + of_k * maps[b, h, k, c] + of_m * maps[b, h, m, c]


@_compiled
def _read_back(begin, end, points, maps, position, weights, gradient, of_maps, of_position, of_weights):
    num_queries, num_heads, num_points = weights.shape[1:]
    for unit in range(begin, end):
        b, h = np.uint64(unit // num_heads), np.uint64(unit % num_heads)
        for q in range(num_queries):
            for p in range(num_points):
                i, j, k, m, right, down = _corners(points[p], position[b, q, h, p])
                weight, (x, y) = weights[b, q, h, p], position[b, q, h, p]
                at_i = at_j = at_k = at_m = _ZERO  # what the gradient says of each pixel
                for c in range(maps.shape[3]):
                    at_i += gradient[b, q, h, c] * maps[b, h, i, c]
                    at_j += gradient[b, q, h, c] * maps[b, h, j, c]
                    at_k += gradient[b, q, h, c] * maps[b, h, k, c]
                    at_m += gradient[b, q, h, c] * maps[b, h, m, c]
                upper, lower = at_i + right * (at_j - at_i), at_k + right * (at_m - at_k)
                along = (at_j - at_i) * (_ONE - down) + (at_m - at_k) * down
                of_weights[b, q, h, p] = upper + down * (lower - upper)
                of_position[b, q, h, p, 0] = weight * along if x >= -_ONE else _ZERO  # farther out all stays zero
                of_position[b, q, h, p, 1] = weight * (lower - upper) if y >= -_ONE else _ZERO
                for pixel, share in zip((i, j, k, m), _shares(weight, right, down)):
                    for c in range(maps.shape[3]):
                        of_maps[b, h, pixel, c] += share * gradient[b, q, h, c]
