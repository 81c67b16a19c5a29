"""Drawn tables with cups, plates and spoons on them: a small world that no shipped network has seen.

draw_table(seed=0, index=0).things[0]        # Thing(category="cup", colour="red", outline=[x, y, x, y, ...])
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"red": (196, 40, 40), "blue": (40, 80, 200), "green": (30, 140, 60), "yellow": (235, 200, 40)}
_TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_ELLIPSE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_CUP = [(-0.42, -0.4), (0.22, -0.4), (0.2, -0.25), (0.45, -0.25), (0.42, 0.15), (0.14, 0.2), (0.1, 0.4), (-0.3, 0.4)]
_BOWL = _ELLIPSE[2:-1] * (0.2, 0.16) + (-0.28, 0.0)  # of a spoon, open on the right
_SPOON = [*_BOWL, (0.5, -0.06), (0.5, 0.06)]
OUTLINES = {"cup": np.array(_CUP), "plate": _ELLIPSE * (0.5, 0.26), "spoon": np.array(_SPOON)}  # (P,2), in one unit
INSIDES = {"cup": _ELLIPSE * (0.28, 0.06) + (-0.1, -0.34), "plate": _ELLIPSE * (0.3, 0.14), "spoon": _BOWL}  # darker
CATEGORIES = tuple(OUTLINES)
_FINE = 4  # drawn so many times as large, then shrunk


class Thing(NamedTuple):
    """outline: x, y, x, y, ... in pixels, one polygon as COCO stores it."""

    category: str
    colour: str
    outline: list[float]


class Table(NamedTuple):
    """image: (S,S,3) uint8."""

    image: np.ndarray
    things: list[Thing]


def draw_table(seed: int, index: int, size: int = 96) -> Table:
    """Table number `index`, `size` pixels wide: two categories in the same two colours, so that neither the noun nor
    the colour alone says which of the four things is meant. They do not touch. Always the same for the same numbers."""
    rng = np.random.default_rng([seed, index])
    categories, colours = rng.permutation(CATEGORIES)[:2].tolist(), rng.permutation(list(COLOURS))[:2].tolist()
    quarters = rng.permutation(4)  # of the picture, one for each thing
    canvas = Image.fromarray(_wood(rng, size * _FINE))
    pairs = zip(product(categories, colours), quarters)
    things = [_place(canvas, *pair, divmod(int(quarter), 2), rng) for pair, quarter in pairs]
    image = np.asarray(canvas.resize((size, size), Image.Resampling.BOX))
    noise = rng.normal(0, 6, image.shape)
    return Table((image + noise).clip(0, 255).astype(np.uint8), things)


def _place(canvas: Image.Image, category: str, colour: str, quarter: tuple, rng: np.random.Generator) -> Thing:
    """Draw it in its quarter (row, column), turned a little and of a size by chance."""
    half = canvas.width / 2
    middle = half * (np.array(quarter[::-1]) + 0.5) + rng.uniform(-0.06, 0.06, 2) * half
    angle, scale = rng.uniform(-0.35, 0.35), rng.uniform(0.65, 0.85) * half
    turned = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline, inside = (part @ turned + middle for part in (OUTLINES[category], INSIDES[category]))
    brush, paint = ImageDraw.Draw(canvas), np.array(COLOURS[colour])
    brush.polygon(outline.ravel().tolist(), tuple(paint))
    brush.polygon(inside.ravel().tolist(), tuple(paint * 3 // 4))
    return Thing(category, colour, (outline / _FINE).ravel().round(2).tolist())


def _wood(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size,size,3) uint8: grain along the rows."""
    rows = np.cumsum(rng.normal(0, 1, size)) / size**0.5
    light = 150 + 30 * (rows - rows.mean())[:, None, None] * np.ones((1, size, 1))
    return (light * (1.1, 0.95, 0.75)).clip(0, 255).astype(np.uint8)
