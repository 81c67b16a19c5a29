"""Random scenes of coloured shapes, in coordinates that know no resolution (our choice throughout).

A scene is a pure function of (seed, split, index, attempt). One table of uniform numbers is drawn for it, one row per
object, so object k does not change when a later object is added or left out. Later objects lie on top of earlier ones.
"""

from math import hypot
from typing import NamedTuple

import numpy as np

VERSION = "v1"  # of the generator: any change that moves a pixel or a word needs a new one
SPLITS = ("train", "val", "testA", "testB", "testC", "testR", "no_target", "multi_target")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "crescent")
COLOURS = {  # sRGB, 0-255
    "red": (212, 32, 38),
    "orange": (246, 134, 24),
    "yellow": (244, 218, 48),
    "green": (44, 158, 62),
    "blue": (36, 84, 212),
    "purple": (140, 52, 176),
    "white": (244, 244, 240),
    "black": (24, 24, 28),
}
TEXTURES = ("plain", "striped", "dotted", "checked")
SIZES = {"small": (0.17, 0.20), "medium": (0.23, 0.27), "large": (0.31, 0.36)}  # diameter, of the picture's side
MIN_OBJECTS, MAX_OBJECTS = 3, 9
HELD_OUT = frozenset((colour, SHAPES[(3 * k + 1) % 8]) for k, colour in enumerate(COLOURS))  # only testC shows these

_ATTEMPTS = 24  # places tried for an object before it is left out
_OVERLAP = 0.43  # deepest overlap, in diameters of the smaller object: at least 60 % of every object stays visible
_STREAMS = {"scene": 0, "paint": 1, "words": 2}


class SceneObject(NamedTuple):
    """One shape. x, y: centre, 0-1 from the top left; diameter: of the enclosing circle; rotation in radians."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    diameter: float
    rotation: float
    phase: float  # 0-1, shifts the texture


class Scene(NamedTuple):
    """Objects from back to front, and the key that every other random number of the scene comes from."""

    key: tuple[int, ...]
    objects: tuple[SceneObject, ...]


def stream(key: tuple[int, ...], name: str) -> np.random.Generator:
    """The scene's random numbers for one purpose: "scene", "paint" or "words"."""
    return np.random.default_rng([*key, _STREAMS[name]])


def draw_scene(seed: int, index: int, split: str = "train", attempt: int = 0, num_objects: int | None = None) -> Scene:
    """Draw scene `index` of a split.

    `attempt` counts redraws of a scene that did not allow the wanted expressions; `num_objects` overrides the drawn
    number (3-9). An object that finds no place is left out. Raises ValueError for a number outside 32 bits or an
    unknown split.
    """
    key = _key(seed, index, split, attempt)
    table = stream(key, "scene").random((1 + MAX_OBJECTS, 6 + 2 * _ATTEMPTS)).tolist()
    plan, rows = table[0], table[1:]
    shapes = _subset(SHAPES, 2 + int(2.4 * plan[0]), plan[1:5])
    colours = _subset(tuple(COLOURS), 2 + int(3 * plan[5]), plan[6:11])
    count = num_objects or MIN_OBJECTS + int((1 + MAX_OBJECTS - MIN_OBJECTS) * plan[11] ** 0.8)
    placed: list[SceneObject] = []
    overlapping: set[int] = set()
    for row in rows[:count]:
        _place(_attributes(row, shapes, colours, split == "testC"), row[6:], placed, overlapping)
    return Scene(key, tuple(placed))


def _key(seed: int, index: int, split: str, attempt: int) -> tuple[int, ...]:
    if split not in SPLITS:
        raise ValueError(f"RefShapes has no split {split!r}; it has {', '.join(SPLITS)}")
    if not all(0 <= number < 2**32 for number in (seed, index, attempt)):
        raise ValueError(f"seed {seed}, index {index} and attempt {attempt} must lie in 0..2^32-1")
    return int(VERSION[1:]), seed, SPLITS.index(split), index, attempt


def _subset(values: tuple[str, ...], count: int, uniforms: list[float]) -> list[str]:
    left = list(values)
    return [left.pop(int(len(left) * uniform)) for uniform in uniforms[:count]]


def _attributes(row: list[float], shapes: list[str], colours: list[str], held_out: bool) -> dict:
    """Everything but the place; outside testC a forbidden (colour, shape) pair takes the next allowed colour."""
    shape = shapes[int(len(shapes) * row[0])]
    colour_index = int(len(colours) * row[1])
    if held_out and row[1] * len(colours) % 1 < 0.4:
        colour = next(colour for colour, forbidden in HELD_OUT if forbidden == shape)
    else:
        order = colours[colour_index:] + colours[:colour_index]
        colour = next(colour for colour in order if held_out or (colour, shape) not in HELD_OUT)
    size, within = divmod(3 * row[3], 1)
    name, (low, high) = list(SIZES.items())[int(size)]
    return {
        "shape": shape,
        "colour": colour,
        "texture": TEXTURES[max(0, int(6 * row[2]) - 2)],  # half are plain
        "size": name,
        "diameter": low + (high - low) * within,
        "rotation": 1.2 * (row[4] - 0.5),
        "phase": row[5],
    }


def _place(attributes: dict, uniforms: list[float], placed: list[SceneObject], overlapping: set[int]) -> None:
    """Add the object at the first place where it overlaps at most one other, shallowly, that is still whole."""
    diameter = attributes["diameter"]
    for u, v in zip(uniforms[::2], uniforms[1::2]):
        x, y = (diameter / 2 + 0.01 + (0.98 - diameter) * number for number in (u, v))
        depths = [(diameter + other.diameter) / 2 - hypot(x - other.x, y - other.y) for other in placed]
        hit = [k for k, depth in enumerate(depths) if depth > 0]
        if len(hit) > 1 or any(k in overlapping for k in hit):
            continue
        if any(depths[k] > _OVERLAP * min(diameter, placed[k].diameter) for k in hit):
            continue
        if hit:
            overlapping.update((hit[0], len(placed)))
        placed.append(SceneObject(x=x, y=y, **attributes))
        return
