"""Painting a scene at any size: signed distances, so edges are anti-aliased; value noise, grain and uneven light."""

from collections.abc import Callable
from functools import lru_cache
from math import ceil, cos, floor, pi, sin, sqrt

import numpy as np

from magnet.refshapes.scene import COLOURS, Scene, SceneObject, stream

_Plane = np.ndarray  # (h, w) float32, in units of the object's radius; v points down


def render(scene: Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint a scene: picture (size, size, 3) uint8, and the visible part of every object (N, size, size) bool."""
    rng = stream(scene.key, "paint")
    picture = _background(rng, size)
    masks = np.zeros((len(scene.objects), size, size), bool)
    for k, thing in enumerate(scene.objects):
        rows, columns, u, v = _patch(thing, size)
        pixel = 2 / (thing.diameter * size)  # in radii
        depth = _DISTANCES[thing.shape](u, v) * (-1 / pixel)  # in pixels, positive inside
        paint = _paint(thing, u, v, depth, pixel)
        cover = _ramp(depth + 0.5)
        patch = picture[:, rows, columns]
        patch += cover * (paint - patch)
        inside = cover > 0.5
        masks[:k, rows, columns] &= ~inside
        masks[k, rows, columns] = inside
    return _expose(picture, rng), masks


def _patch(thing: SceneObject, size: int) -> tuple[slice, slice, _Plane, _Plane]:
    """The pixels around an object and its own, turned coordinates there."""
    radius = thing.diameter / 2
    rows, columns = (
        slice(max(0, floor((centre - radius) * size) - 1), min(size, ceil((centre + radius) * size) + 1))
        for centre in (thing.y, thing.x)
    )
    x = (_centres(size)[columns] - np.float32(thing.x)) / np.float32(radius)
    y = (_centres(size)[rows, None] - np.float32(thing.y)) / np.float32(radius)
    c, s = np.float32(cos(thing.rotation)), np.float32(sin(thing.rotation))
    return rows, columns, x * c + y * s, y * c - x * s


@lru_cache(maxsize=8)
def _centres(size: int) -> np.ndarray:
    return (np.arange(size, dtype=np.float32) + 0.5) / np.float32(size)


def _circle(u: _Plane, v: _Plane) -> _Plane:
    return np.sqrt(u * u + v * v) - 0.88


def _square(u: _Plane, v: _Plane) -> _Plane:
    return np.maximum(np.abs(u), np.abs(v)) - 0.7


def _triangle(u: _Plane, v: _Plane) -> _Plane:
    return np.maximum(np.abs(u) * (sqrt(3) / 2) - v / 2, v) - 0.5


def _star(u: _Plane, v: _Plane) -> _Plane:
    """Fold the plane into one of the ten wedges of a five-pointed star; there the outline is one straight line."""
    u = np.abs(u)
    for angle in (pi / 5, -pi / 5):
        x, y = cos(angle), sin(angle)
        beyond = 2 * np.maximum((u if angle > 0 else -u) * x + v * abs(y), 0)
        u, v = (u - beyond * x if angle > 0 else u + beyond * x), v - beyond * abs(y)
    return _line(np.abs(u), v, (0, -1), (0.46 * sin(pi / 5), -0.46 * cos(pi / 5)))


def _line(u: _Plane, v: _Plane, start: tuple[float, float], end: tuple[float, float]) -> _Plane:
    """Signed distance to the line from start to end, negative on the origin's side."""
    du, dv = end[0] - start[0], end[1] - start[1]
    length = sqrt(du * du + dv * dv) * (1 if start[0] * dv - start[1] * du > 0 else -1)
    return ((u - start[0]) * dv - (v - start[1]) * du) / length


def _ring(u: _Plane, v: _Plane) -> _Plane:
    return np.abs(np.sqrt(u * u + v * v) - 0.69) - 0.24


def _cross(u: _Plane, v: _Plane) -> _Plane:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v) - 0.93, np.minimum(u, v) - 0.29)


def _heart(u: _Plane, v: _Plane) -> _Plane:
    """A square on its corner with a half disc on each upper side."""
    u, v = np.abs(u), 0.17 - v
    a, b = 0.57, 0.57 / sqrt(2)
    lobe = np.sqrt((u - b) ** 2 + (v - b) ** 2)
    return np.minimum((u + np.abs(v)) / sqrt(2), lobe) - a


def _crescent(u: _Plane, v: _Plane) -> _Plane:
    u, vv = u - 0.26, v * v
    return np.maximum(np.sqrt(u * u + vv) - 0.83, 0.6 - np.sqrt((u - 0.46) ** 2 + vv))


_DISTANCES: dict[str, Callable[[_Plane, _Plane], _Plane]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
}


def _ramp(values: np.ndarray) -> np.ndarray:
    """Cut to 0..1, in place."""
    return np.minimum(np.maximum(values, 0, out=values), 1, out=values)


def _paint(thing: SceneObject, u: _Plane, v: _Plane, depth: _Plane, pixel: float) -> np.ndarray:
    """The object's colours (3, h, w): its texture in a second tone, a little relief, a dark rim."""
    colour = np.array(COLOURS[thing.colour], np.float32)
    shade = (0.45 + 0.55 * _ramp(depth - 0.6)) * (1.02 - 0.1 * v)
    if thing.texture == "plain":
        return colour[:, None, None] * shade
    dark = colour.mean() < 110
    second = colour + (0.48 * (255 - colour) if dark else -0.48 * colour)
    pattern = _ramp(0.5 + _pattern(thing.texture, u, v, thing.phase) / (8 * pixel))
    return (colour[:, None, None] + (second - colour)[:, None, None] * pattern) * shade


def _pattern(texture: str, u: _Plane, v: _Plane, phase: float) -> _Plane:
    """Positive where the second tone goes; about three periods to a diameter."""
    shift = 2 * pi * phase
    if texture == "striped":
        return np.sin(10 * v + shift)
    if texture == "checked":
        return np.sin(10 * u + shift) * np.sin(10 * v + shift)
    return np.cos(11 * u + shift) + np.cos(11 * v + shift) - 0.5


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A mottled wall in a faint colour, (3, size, size) float32."""
    tint = 120 + 50 * rng.random((3, 1, 1), np.float32) * 0.5 + 30 * rng.random(dtype=np.float32)
    coarse, fine = (_stretch(rng.random((n, n), np.float32) - np.float32(0.5), size) for n in (6, 24))
    strength = 30 + 30 * rng.random(dtype=np.float32)
    return tint + strength * (coarse + fine)


def _stretch(grid: np.ndarray, size: int) -> np.ndarray:
    """A grid (n, n) blown up to (size, size), smoothly."""
    weights = _weights(len(grid), size)
    return weights @ grid @ weights.T


@lru_cache(maxsize=32)
def _weights(num_knots: int, size: int) -> np.ndarray:
    """Smoothstep interpolation from knots to pixels, (size, num_knots)."""
    at = _centres(size)[:, None] * (num_knots - 1) - np.arange(num_knots, dtype=np.float32)
    near = np.clip(1 - np.abs(at), 0, 1)
    return near * near * (3 - 2 * near)


def _expose(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uneven light, then grain, then 8 bits: (3, S, S) float32 -> (S, S, 3) uint8."""
    size = picture.shape[-1]
    light = _stretch(0.7 + 0.5 * rng.random((3, 3), np.float32), size)
    amplitude = np.float32((14 + 18 * rng.random()) / 255)
    grain = rng.integers(0, 256, (2, size, size), np.uint8)  # two fields, mixed into three channels
    first, second = (grain.astype(np.float32) - 127.5) * (amplitude * np.array([1, 0.4], np.float32))[:, None, None]
    picture *= light
    picture += first
    picture[0] += second
    picture[2] -= second
    np.clip(picture, 0, 255, out=picture)
    return picture.transpose(1, 2, 0).astype(np.uint8, order="C")
