"""Masks of annotations: by hand, against brute force, and on real RefCOCOg records."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco
from refer_toy import HEIGHT, WIDTH, Toy, square

from magnet.data import read_refer, splits
from magnet.data.masks import checked_rle, object_rle
from magnet.metrics import rle_decode

REAL = os.environ.get("MAGNET_REAL_DATA")
needs_real_data = pytest.mark.skipif(not REAL, reason="MAGNET_REAL_DATA is unset")


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path)


def runs_of(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO counts, the slow way: runs down the columns, the first of them background."""
    counts, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def test_overlapping_polygons_leave_a_hole_or_not():
    first, second = square(0, 0, 20, 20), square(10, 10, 30, 30)
    layers = [np.zeros((HEIGHT, WIDTH), int) for _ in range(2)]
    layers[0][0:20, 0:20], layers[1][10:30, 10:30] = 1, 1
    for overlap, expected in (("hole", sum(layers) == 1), ("union", sum(layers) > 0)):
        rle, _ = object_rle([first, second], HEIGHT, WIDTH, overlap)
        np.testing.assert_array_equal(coco.decode(rle).astype(bool), expected, err_msg=overlap)


def test_hole_is_where_not_exactly_one_polygon_lies():
    """Against the sum over polygons drawn one by one; three of them, so that a parity rule would fail."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        polygons = rng.uniform(0, [WIDTH, HEIGHT], (3, 7, 2)).reshape(3, -1).round(2).tolist()
        layers = [coco.decode(coco.frPyObjects([polygon], HEIGHT, WIDTH))[..., 0] for polygon in polygons]
        for overlap, expected in (("hole", sum(layers) == 1), ("union", sum(layers) > 0)):
            rle, _ = object_rle(polygons, HEIGHT, WIDTH, overlap)
            np.testing.assert_array_equal(coco.decode(rle).astype(bool), expected, err_msg=overlap)


def test_both_run_length_forms_are_the_same_mask():
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.3
    compressed = coco.encode(np.asfortranarray(mask, np.uint8))["counts"]
    size = [HEIGHT, WIDTH]
    for counts in (runs_of(mask), compressed, compressed.decode()):
        rle, _ = object_rle({"size": size, "counts": counts}, HEIGHT, WIDTH)
        np.testing.assert_array_equal(coco.decode(rle).astype(bool), mask)


@pytest.mark.parametrize("counts", [[4, 2, 0, 3, 6], [0, 0, 4, 5, 0, 0, 6], [0] * 40 + [4, 5, 6, 0], [15, 0]])
def test_runs_of_no_pixel_are_written_away(counts):
    """pycocotools' merging takes them for the end, and past a picture's size writes where it must not."""
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    compressed = coco.frPyObjects({"size": [5, 3], "counts": counts}, 5, 3)["counts"]
    for given in (counts, compressed, compressed.decode()):
        rle = checked_rle({"size": [5, 3], "counts": given}, 5, 3)
        assert rle == coco.encode(np.asfortranarray(values.reshape(3, 5).T, dtype=np.uint8))
        assert coco.area(coco.merge([rle, rle])) == values.sum()


def test_read_refer_passes_polygon_overlap_on_and_caches_both(toy):
    toy.annotations[0]["segmentation"] = [square(0, 0, 20, 20), square(10, 10, 30, 30)]
    toy.write()
    for _ in range(2):
        assert toy.read(polygon_overlap="hole")["area"][0] == 600
        assert toy.read(polygon_overlap="union")["area"][0] == 700


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ([], "no polygon"),
        ([[1, 1, 5, 5]], "no polygon of 3 points"),
        ([[1, 1, 5, 5, 9, 9]], "covers no pixel"),
        ([[70, 1, 90, 1, 90, 20]], "covers no pixel"),
        ([[1, 1, 5, 1, 5, 5, 3]], "no list of x, y"),
        ([[1, 1, 5, 1, float("nan"), 5]], "no list of x, y"),
        ([[1, 1, 5, 1, 1e9, 5]], "no list of x, y"),
        ([[1, 1, 5, 1, "five", 5]], "could not convert"),
        ("polygon", "neither polygons nor RLE"),
        ([1, 2, 3, 4, 5, 6], "neither polygons nor RLE"),
        ({"size": [5, 5], "counts": [20, 5]}, "size"),
        ({"size": [HEIGHT, WIDTH], "counts": [100, 100]}, "sum to 200"),
        ({"size": [HEIGHT, WIDTH], "counts": "zzzz"}, "damaged"),
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "covers no pixel"),
        ({"size": [HEIGHT, WIDTH], "counts": "é"}, ""),
        ({"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]}, ""),
        ({"size": [HEIGHT, WIDTH], "counts": None}, ""),
        ({"size": 5, "counts": [5]}, ""),
        ({"size": [HEIGHT, WIDTH]}, "no field 'counts'"),
    ],
)
def test_a_damaged_mask_is_named(toy, segmentation, says):
    toy.annotations[1]["segmentation"] = segmentation
    with pytest.raises(ValueError, match=r"refs\(me\).p: ref 1: ") as error:
        toy.write().read()
    assert says in str(error.value)


def test_a_stray_fragment_beside_a_good_polygon_is_noted(toy):
    toy.annotations[0]["segmentation"].append([1, 1, 2, 2])
    with pytest.warns(UserWarning, match="annotation 1: 1 polygons of under 3 points"):
        table = toy.write().read()
    assert len(table) == 3 and table["area"][0] == 200 and len(table.attrs["notes"]) == 1


OUTSIDE = {"left": (50, square(-50, 5, 20, 25)), "above": (2, square(5, -2, 20, 25)),
           "right": (7.5, square(40, 5, WIDTH + 7.5, 25)), "below": (2, square(5, 5, 20, HEIGHT + 2))}  # fmt: skip


@pytest.mark.parametrize("side", OUTSIDE)
def test_an_outline_that_leaves_the_picture_is_cut_and_noted(toy, side):
    by, polygon = OUTSIDE[side]
    toy.annotations[0]["segmentation"] = [polygon]
    toy.write()
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match=f"annotation 1: its outline leaves the picture by {by} pixels and is cut"):
            table = toy.read()
    assert len(table) == 3 and len(table.attrs["notes"]) == 1
    assert coco.area({"size": [HEIGHT, WIDTH], "counts": table["rle"][0]}) == table["area"][0] < WIDTH * HEIGHT / 2


def test_an_outline_within_a_pixel_of_the_border_is_not_worth_a_note(toy):
    toy.annotations[0]["segmentation"] = [square(-0.5, -1, WIDTH + 0.6, HEIGHT + 1)]
    assert toy.write().read().attrs["notes"] == []


# Real records


@pytest.fixture
def real(tmp_path) -> Path:
    """The 13 real objects, read from a pickle as RefCOCO users do."""
    folder = tmp_path / "refcocog"
    shutil.copytree(Path(REAL) / "refcocog_google_val_mini", folder, copy_function=shutil.copyfile)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    refs = folder / "refs(google).json"
    (folder / "refs(google).p").write_bytes(pickle.dumps(json.loads(refs.read_text()), protocol=2))
    refs.unlink()
    return tmp_path


@needs_real_data
def test_real_polygons_cover_the_area_their_annotators_measured(real):
    table = read_refer(real, "refcocog", "google")
    stated = json.loads((real / "refcocog" / "instances.json").read_text())["annotations"]
    area = {annotation["id"]: annotation["area"] for annotation in stated}
    assert len(table) == 13 and splits(table) == {"val": 13} and table.attrs["notes"] == []
    for row in table.itertuples():
        assert row.area == pytest.approx(area[row.ann_id], rel=0.03), row.text
        assert rle_decode(row.rle, row.height, row.width).sum() == row.area


@needs_real_data
def test_real_masks_against_a_point_in_polygon_test(real):
    """Apart from pixels on the outline, where conventions differ: matplotlib decides which centres lie inside."""
    from matplotlib.path import Path as Outline

    table = read_refer(real, "refcocog", "google")
    annotations = json.loads((real / "refcocog" / "instances.json").read_text())["annotations"]
    polygons = {annotation["id"]: annotation["segmentation"] for annotation in annotations}
    for row in table[:5].itertuples():
        x, y = np.meshgrid(np.arange(row.width) + 0.5, np.arange(row.height) + 0.5)
        outlines = [Outline(np.reshape(polygon, (-1, 2))) for polygon in polygons[row.ann_id]]
        inside = sum(outline.contains_points(np.c_[x.ravel(), y.ravel()]) for outline in outlines) == 1
        mask = rle_decode(row.rle, row.height, row.width)
        assert (inside.reshape(mask.shape) != mask).sum() < 0.03 * row.area


@pytest.mark.parametrize("counts", [[5.5, 10.5, 9200], [None], None, 3])
def test_runs_that_are_no_whole_numbers_are_refused(counts):
    with pytest.raises(ValueError, match="no list of whole numbers"):
        object_rle({"size": [96, 96], "counts": counts}, 96, 96)
