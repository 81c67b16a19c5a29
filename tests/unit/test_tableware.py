"""The drawn tables of notebook 12: a colour or a noun alone says nothing, and outlines lie on what was painted."""

from collections import Counter

import numpy as np
import pytest

from magnet.data.masks import object_rle
from magnet.metrics import rle_decode
from magnet.workbench.tableware import CATEGORIES, COLOURS, draw_table

SIZE = 96


def mask(outline: list[float]) -> np.ndarray:
    return rle_decode(object_rle([outline], SIZE, SIZE)[0]["counts"], SIZE, SIZE)


@pytest.mark.parametrize("index", range(8))
def test_neither_noun_nor_colour_says_which(index):
    things = draw_table(0, index, SIZE).things
    assert set(Counter(thing.category for thing in things).values()) == {2}
    assert set(Counter(thing.colour for thing in things).values()) == {2}
    assert len({(thing.category, thing.colour) for thing in things}) == 4


@pytest.mark.parametrize("index", range(8))
def test_an_outline_holds_its_paint_and_no_other(index):
    table = draw_table(0, index, SIZE)
    masks = [mask(thing.outline) for thing in table.things]
    assert np.sum(masks, axis=0).max() == 1  # they do not touch
    for thing, where in zip(table.things, masks):
        x, y = thing.outline[::2], thing.outline[1::2]
        assert min(x) >= 0 and max(x) <= SIZE and min(y) >= 0 and max(y) <= SIZE
        seen, paint = np.median(table.image[where], axis=0), np.array(COLOURS[thing.colour])
        distances = {name: np.abs(seen - other).sum() for name, other in COLOURS.items()}
        assert min(distances, key=distances.get) == thing.colour and (seen - paint < 20).all()


def test_tables_are_told_apart_by_their_numbers():
    assert np.array_equal(draw_table(0, 3).image, draw_table(0, 3).image)
    assert not np.array_equal(draw_table(0, 3).image, draw_table(0, 4).image)
    assert not np.array_equal(draw_table(0, 3).image, draw_table(1, 3).image)
    assert draw_table(0, 3, size=48).image.shape == (48, 48, 3)


def test_everything_is_drawn_sooner_or_later():
    things = [thing for index in range(20) for thing in draw_table(0, index).things]
    assert {thing.category for thing in things} == set(CATEGORIES)
    assert {thing.colour for thing in things} == set(COLOURS)
