"""Scenes and their pictures: reproducible object by object, crowded, occluded but visible, noisy, unevenly lit."""

from collections import Counter

import numpy as np
import pytest

from magnet.refshapes import SPLITS, sample
from magnet.refshapes.draw import render
from magnet.refshapes.scene import COLOURS, HELD_OUT, SHAPES, SIZES, TEXTURES, Scene, draw_scene

SCENES = [draw_scene(3, index) for index in range(300)]


def test_a_scene_is_a_pure_function_of_seed_split_and_index():
    assert draw_scene(1, 2) == draw_scene(1, 2)
    others = {draw_scene(*key) for key in [(1, 2, "val"), (1, 3), (2, 2), (2, 1), (1, 2, "train", 1)]}
    assert len({scene.objects for scene in others} | {draw_scene(1, 2).objects}) == 6


def test_a_later_object_changes_no_earlier_one():
    for index in range(30):
        fewer, more = (draw_scene(0, index, num_objects=num).objects for num in (4, 7))
        assert more[: len(fewer)] == fewer and len(more) > len(fewer)


def test_no_scene_appears_in_two_splits():
    seen = [draw_scene(0, index, split).objects for split in SPLITS for index in range(100)]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("key", [(-1, 0), (0, 2**32), (2**32, 0)])
def test_numbers_that_would_meet_another_scene_are_refused(key):
    with pytest.raises(ValueError, match="2\\^32"):
        draw_scene(*key)


def test_an_unknown_split_is_refused_by_name():
    with pytest.raises(ValueError, match=r"testD.*testA"):
        sample(0, 0, "testD")


def test_scenes_hold_three_to_nine_objects_and_mostly_three_of_a_shape():
    assert {len(scene.objects) for scene in SCENES} == set(range(3, 10))
    most = [max(Counter(thing.shape for thing in scene.objects).values()) for scene in SCENES]
    assert np.mean(np.array(most) >= 3) >= 0.5


def test_every_attribute_occurs_about_as_often_as_meant():
    things = [thing for scene in SCENES for thing in scene.objects]
    for name, values in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES)):
        counts = Counter(getattr(thing, name) for thing in things)
        assert set(counts) == set(values) and min(counts.values()) > 0.5 * len(things) / len(values), counts
    assert 0.4 < np.mean([thing.texture == "plain" for thing in things]) < 0.6
    assert {thing.texture for thing in things} == set(TEXTURES)
    assert all(0.17 <= thing.diameter <= 0.36 for thing in things)


def test_held_out_pairs_are_one_per_shape_and_colour_and_stay_in_test_c():
    assert {colour for colour, _ in HELD_OUT} == set(COLOURS) and {shape for _, shape in HELD_OUT} == set(SHAPES)
    assert not any((thing.colour, thing.shape) in HELD_OUT for scene in SCENES for thing in scene.objects)
    shown = {(t.colour, t.shape) for index in range(60) for t in draw_scene(0, index, "testC").objects}
    assert shown >= HELD_OUT


def test_at_least_sixty_percent_of_every_object_is_visible():
    occluded = 0
    for scene in SCENES:
        for thing, visible in zip(scene.objects, render(scene, 96)[1]):
            whole = render(Scene(scene.key, (thing,)), 96)[1][0]
            assert visible.sum() >= 0.6 * whole.sum(), (thing, visible.sum() / whole.sum())
            assert not (visible & ~whole).any()
            occluded += visible.sum() < 0.97 * whole.sum()
    assert occluded > 100  # occlusion does occur


def test_visible_parts_do_not_overlap_and_lie_where_the_scene_says():
    for scene in SCENES[:50]:
        masks = render(scene, 96)[1]
        assert masks.sum(0).max() <= 1
        for thing, mask in zip(scene.objects, masks):
            rows, columns = np.nonzero(mask)
            away = np.hypot((columns + 0.5) / 96 - thing.x, (rows + 0.5) / 96 - thing.y)
            assert away.max() <= thing.diameter / 2 + 0.01


def test_every_size_shows_the_same_scene():
    scene = SCENES[0]
    small, large = render(scene, 60)[1], render(scene, 480)[1]
    shrunk = large.reshape(-1, 60, 8, 60, 8).mean((2, 4)) > 0.5
    overlap = (small & shrunk).sum((1, 2)) / (small | shrunk).sum((1, 2))
    assert overlap.min() > 0.93


def test_pictures_show_their_colours_under_noise_and_uneven_light():
    noise, light = [], []
    for scene in SCENES[:100]:
        image, masks = render(scene, 96)
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        background = np.where(masks.any(0), np.nan, image.mean(-1))
        noise.append(np.nanstd(np.diff(background, axis=1)) / np.sqrt(2))
        quarters = [np.nanmean(part) for half in np.split(background, 2) for part in np.split(half, 2, axis=1)]
        light.append(max(quarters) / min(quarters))
        for thing, mask in zip(scene.objects, masks):
            if thing.texture == "plain":
                shown = np.median(image[mask], axis=0)
                assert nearest_colour(shown) == thing.colour, (thing, shown)
    assert np.min(noise) > 2 and np.median(light) > 1.05


def nearest_colour(shown: np.ndarray) -> str:
    """By hue where there is any, else by brightness."""
    paints = {name: np.array(paint, float) for name, paint in COLOURS.items()}
    if np.ptp(shown) < 0.25 * shown.max() or shown.max() < 60:
        return "white" if shown.mean() > 100 else "black"
    directions = {
        name: paint / np.linalg.norm(paint) for name, paint in paints.items() if name not in ("white", "black")
    }
    return max(directions, key=lambda name: directions[name] @ shown)
