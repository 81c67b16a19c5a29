"""`read_scales` on a CPU: loops over all that is read, compiled by Numba when they are first needed, then kept on disk.

Every map lies in a border of zeros, one pixel wide before and two after, and positions stay within it: so no loop has
to ask whether a pixel lies outside. What is read at no number is none. Pixels are looked up for many points at once,
which a CPU does side by side, and a head's map is then read for some queries after one another, which are near. The
loops share a file because Numba compiles them anew when their own file changes, and no other.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise, product
from typing import NamedTuple

import numba
import numpy as np
import torch
from numba.extending import overload
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from magnet.models.scale_reading import Sizes
from magnet.threads import on_all_threads

_BORDER = 3
_POSITIONS = 2**17  # that are read in one job
_AT_ONCE = 32  # queries
_ZERO, _ONE = np.float32(0), np.float32(1)  # beside numbers of Python's the compiled arithmetic would be in float64


def by_loops(value: Tensor, sizes: Sizes, position: Tensor, weights: Tensor) -> Tensor:
    """`read_scales` on a CPU; bfloat16 values are widened as they are read. Raises ValueError for shapes that do not go
    together."""
    lengths = [height * width for height, width in sizes]
    shape = (len(value), position.shape[1], value.shape[2], len(sizes), weights.shape[-1])
    if value.shape[1] != sum(lengths) or weights.shape != shape or position.shape != (*shape, 2):
        found = ", ".join(str(tuple(x.shape)) for x in (value, position, weights))
        raise ValueError(f"values, positions and weights of {found} do not go together for maps of {sizes}")
    value = value if value.dtype == torch.bfloat16 else value.float()
    parts = zip(value.split(lengths, dim=1), sizes)
    maps = [F.pad(part.transpose(1, 2).unflatten(2, size), (0, 0, 1, 2, 1, 2)).flatten(2, 3) for part, size in parts]
    points = _points(sizes, weights.shape[4], value.shape[2])
    return _Reading.apply(torch.cat(maps, dim=2), points, position.flatten(2, 4), weights.flatten(2))


def _points(sizes: Sizes, per_scale: int, heads: int) -> np.ndarray:
    """(3,heads·P) int32: of each point that a query reads where its map begins, and that one's rows and columns."""
    areas = [(height + _BORDER) * (width + _BORDER) for height, width in sizes]
    of_scales = np.array([np.cumsum([0, *areas[:-1]]), *zip(*sizes)], np.int32)
    return np.tile(of_scales.repeat(per_scale, axis=1), heads)


class _Reading(torch.autograd.Function):
    """Maps (B,heads,N',d), points (3,heads·P), positions (B,Q,heads·P,2), weights (B,Q,heads·P) -> (B,Q,heads,d)."""

    @staticmethod
    def forward(ctx, maps: Tensor, points: np.ndarray, position: Tensor, weights: Tensor) -> Tensor:
        given = maps.contiguous(), position.contiguous(), weights.contiguous()
        ctx.points = points
        ctx.save_for_backward(*given)
        (images, num_queries), heads = weights.shape[:2], maps.shape[1]
        queries = _parts(num_queries, num_queries * points.shape[1] // _POSITIONS + 1)
        read = weights.new_empty(images, num_queries, heads, maps.shape[3])
        _share_out(_read, product(range(images), [(0, heads)], queries), points, *given, read)
        return read

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        maps, *others = ctx.saved_tensors
        (images, heads), num_queries = maps.shape[:2], gradient.shape[1]
        of_maps, of_others = torch.zeros_like(maps, dtype=torch.float32), [torch.empty_like(x) for x in others]
        threads = torch.get_num_threads()
        own_heads = _parts(heads, threads if images % threads else 1)  # no two threads ever add to the same map
        jobs = product(range(images), own_heads, [(0, num_queries)])
        _share_out(_read_back, jobs, ctx.points, maps, *others, gradient.contiguous(), of_maps, *of_others)
        return of_maps.to(maps.dtype), None, *of_others


def _parts(length: int, number: int) -> list[tuple[int, int]]:
    """Where each of so many parts of a whole begins and ends, none of them empty."""
    ends = [length * part // number for part in range(number + 1)]
    return [(begin, end) for begin, end in pairwise(ends) if begin < end]


def _share_out(loops: Callable, jobs: Iterable[tuple], points: np.ndarray, *tensors: Tensor) -> None:
    """Every thread does the next job (image, heads from and to, queries from and to) until none is left."""
    arrays, jobs = [_array(tensor.detach()) for tensor in tensors], iter(jobs)

    def work() -> None:
        for job in jobs:
            loops(*job, points, *arrays)

    on_all_threads(work)


def _array(tensor: Tensor) -> np.ndarray:
    """NumPy knows no bfloat16: as its bits."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _compiled(loops: Callable) -> Callable:
    """Without Python's lock, so that threads help; terms of a sum may be put together in any order."""
    compiled = partial(numba.njit, nogil=True, fastmath={"reassoc", "contract", "nsz"})
    try:
        return compiled(cache=True)(loops)
    except RuntimeError:  # no folder to keep it in that can be written
        return compiled()(loops)


def _float(stored):
    """A number of a map, as float32."""


@overload(_float)
def _float_of(stored):
    if stored == numba.types.uint16:  # the upper half of its bits
        return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)
    return lambda stored: stored


class _Found(NamedTuple):
    """Of every point of some queries, (queries,P): the first of the four pixels around it, how far right of that and
    below it the point lies, 0 to 1, and what each of the four has in what is read, (queries,4,P)."""

    corner: np.ndarray
    right: np.ndarray
    down: np.ndarray
    shares: np.ndarray


@_compiled
def _own(heads, num_heads, points):
    """Of some heads where their points stand among all, how many a head has, which these are, and room to find them."""
    per_head = points.shape[1] // num_heads
    mine = slice(heads[0] * per_head, heads[1] * per_head)
    shape = _AT_ONCE, mine.stop - mine.start
    distances = np.empty(shape, np.float32), np.empty(shape, np.float32)
    found = _Found(np.empty(shape, np.int32), *distances, np.empty((shape[0], 4, shape[1]), np.float32))
    return mine, per_head, points[:, mine].copy(), found


@_compiled
def _find_points(points, position, weights, corner, right, down, shares):
    for p in range(len(corner)):
        x, y, width, height = position[p, 0], position[p, 1], np.float32(points[2, p]), np.float32(points[1, p])
        x = _ONE + (-_ONE if x < -_ONE else width if x > width else x)  # border counted
        y = _ONE + (-_ONE if y < -_ONE else height if y > height else y)
        column, row = np.int32(x if x >= _ZERO else _ZERO), np.int32(y if y >= _ZERO else _ZERO)
        corner[p] = points[0, p] + row * (points[2, p] + np.int32(_BORDER)) + column
        right[p], down[p] = x - np.float32(column), y - np.float32(row)
        lower = weights[p] * down[p]
        upper = weights[p] - lower
        shares[1, p], shares[3, p] = upper * right[p], lower * right[p]
        shares[0, p], shares[2, p] = upper - shares[1, p], lower - shares[3, p]


@_compiled
def _pixels(corner, columns):
    """The four pixels around a point, row by row; without a sign, so no loop looks for negative ones."""
    upper = np.uint64(corner)
    lower = upper + np.uint64(columns + _BORDER)
    return upper, upper + np.uint64(1), lower, lower + np.uint64(1)


@_compiled
def _shares_at(shares, n, p):
    return shares[n, 0, p], shares[n, 1, p], shares[n, 2, p], shares[n, 3, p]


@_compiled
def _find_for_queries(start, stop, mine, points, position, weights, found):
    """`found` for some queries and for those of all points that are one's own."""
    for q in range(start, stop):
        n = q - start
        room = found.corner[n], found.right[n], found.down[n], found.shares[n]
        _find_points(points, position[q, mine], weights[q, mine], *room)


@_compiled
def _read(b, heads, queries, points, maps, position, weights, read):
    mine, per_head, points, found = _own(heads, read.shape[2], points)
    for start in range(queries[0], queries[1], _AT_ONCE):
        stop = min(start + _AT_ONCE, queries[1])
        _find_for_queries(start, stop, mine, points, position[b], weights[b], found)
        for h in range(heads[0], heads[1]):
            for q in range(start, stop):
                read[b, q, h] = _ZERO
                for p in range((h - heads[0]) * per_head, (h - heads[0] + 1) * per_head):
                    i, j, k, m = _pixels(found.corner[q - start, p], points[2, p])
                    of_i, of_j, of_k, of_m = _shares_at(found.shares, q - start, p)
                    for c in range(read.shape[3]):
                        row = of_i * _float(maps[b, h, i, c]) + of_j * _float(maps[b, h, j, c])
                        read[b, q, h, c] += row + of_k * _float(maps[b, h, k, c]) + of_m * _float(maps[b, h, m, c])


@_compiled
def _read_back(b, heads, queries, points, maps, position, weights, gradient, of_maps, of_position, of_weights):
    mine, per_head, points, found = _own(heads, gradient.shape[2], points)
    for start in range(queries[0], queries[1], _AT_ONCE):
        stop = min(start + _AT_ONCE, queries[1])
        _find_for_queries(start, stop, mine, points, position[b], weights[b], found)
        for h in range(heads[0], heads[1]):
            for q in range(start, stop):
                for p in range((h - heads[0]) * per_head, (h - heads[0] + 1) * per_head):
                    n, at = q - start, p + mine.start
                    pixels = i, j, k, m = _pixels(found.corner[n, p], points[2, p])
                    at_i = at_j = at_k = at_m = _ZERO  # what the gradient says of each pixel
                    for c in range(maps.shape[3]):
                        at_i += gradient[b, q, h, c] * _float(maps[b, h, i, c])
                        at_j += gradient[b, q, h, c] * _float(maps[b, h, j, c])
                        at_k += gradient[b, q, h, c] * _float(maps[b, h, k, c])
                        at_m += gradient[b, q, h, c] * _float(maps[b, h, m, c])
                    (x, y), weight = position[b, q, at], weights[b, q, at]
                    right, down = found.right[n, p], found.down[n, p]
                    upper, lower = at_i + right * (at_j - at_i), at_k + right * (at_m - at_k)
                    along = (at_j - at_i) * (_ONE - down) + (at_m - at_k) * down
                    of_weights[b, q, at] = upper + down * (lower - upper)
                    of_position[b, q, at, 0] = weight * along if x >= -_ONE else _ZERO  # farther out all stays zero
                    of_position[b, q, at, 1] = weight * (lower - upper) if y >= -_ONE else _ZERO
                    for pixel, share in zip(pixels, _shares_at(found.shares, n, p)):
                        for c in range(maps.shape[3]):
                            of_maps[b, h, pixel, c] += share * gradient[b, q, h, c]
