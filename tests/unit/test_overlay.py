"""Answers as SVG: outlines where the masks are, each mark on the right mask, nothing that the data could say."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from magnet.workbench.overlay import LARGEST, draw_example, draw_heat, heat_scale, jpeg, legend, outline, side_by_side
from magnet.workbench.plots import Example


def points(path: str) -> np.ndarray:
    return np.array([[float(x) for x in pair.split(",")] for pair in re.findall(r"[\d.-]+,[\d.-]+", path)])


def square(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    return mask


@pytest.mark.parametrize("rows, columns", [((0, 20), (30, 50)), ((40, 60), (70, 90)), ((7, 8), (9, 10))])
def test_an_outline_encloses_its_mask_also_at_the_border(rows, columns):
    found = points(outline(square(60, 90, slice(*rows), slice(*columns))))
    np.testing.assert_allclose(found.min(0), [columns[0], rows[0]], atol=0.01)
    np.testing.assert_allclose(found.max(0), [columns[1], rows[1]], atol=0.01)


def test_of_a_large_mask_the_outline_is_short_and_in_the_pictures_pixels():
    mask = square(3000, 6000, slice(1200, 1800), slice(2400, 4200))
    found = points(outline(mask))
    np.testing.assert_allclose([found.min(0), found.max(0)], [[2400, 1200], [4200, 1800]], atol=6000 / LARGEST)
    noise = np.random.default_rng(0).random((400, 600)) < 0.5
    assert len(outline(noise, 32)) < len(outline(noise, 128)) / 4


def test_holes_and_parts_have_lines_of_their_own():
    mask = square(60, 90, slice(5, 30), slice(5, 30)) | square(60, 90, slice(40, 50), slice(60, 80))
    mask[10:20, 10:20] = False
    assert outline(mask).count("M") == 3
    assert outline(np.zeros((9, 9), bool)) == ""


def test_each_mark_lies_on_its_own_mask():
    places = {"truth": slice(0, 10), "answer": slice(20, 30), "other": slice(40, 50)}
    masks = {kind: square(60, 90, rows, rows) for kind, rows in places.items()}
    example = Example(image=None, truth=masks["truth"], prediction=masks["answer"])
    drawing = ElementTree.fromstring(draw_example(example, [masks["other"]]))
    paths = {path.get("id"): path.get("d") for path in drawing.iter("path")}
    drawn = [(use.get("class"), paths[use.get("href")[1:]]) for use in drawing.iter("use")]
    assert drawn == [
        (line + kind, outline(masks[kind])) for kind in ("other", "answer", "truth") for line in ("under ", "")
    ]
    assert drawing.get("viewBox") == "0 0 90 60" and not list(drawing.iter("image"))


def test_what_is_empty_is_not_drawn_and_large_pictures_are_shrunk():
    empty, image = np.zeros((1200, 1500), bool), np.zeros((1200, 1500, 3), np.uint8)
    drawing = ElementTree.fromstring(draw_example(Example(image=image, truth=empty, prediction=empty)))
    assert [part.tag for part in drawing] == ["image"] and len(jpeg(image)) < 50_000
    assert jpeg(None) == ""


def test_the_legend_names_every_mark_that_is_asked_for():
    assert "truth" in legend() and "other objects" not in legend()
    assert "other objects" in legend(("answer", "truth", "other"))


def test_heat_lies_over_the_grey_picture_in_its_own_pixels():
    drawing = ElementTree.fromstring(draw_heat("data:,", (60, 90), np.linspace(0, 1, 12).reshape(3, 4), "<said>"))
    grey, heat = drawing.iter("image")
    assert grey.get("href") == "data:," and drawing.get("aria-label") == "<said>"
    colours = Image.open(io.BytesIO(base64.b64decode(heat.get("href").split(",")[1])))
    brightness = np.asarray(colours.convert("L"), int)
    assert colours.size == (4, 3) and (np.diff(brightness.ravel()) > 0).all()
    assert "0.25, share" in heat_scale(0.25, "share")


def test_titles_are_no_markup():
    assert "&lt;b&gt;" in side_by_side({"<b>": "<svg></svg>"}) and "<b>" not in side_by_side({"<b>": ""})
