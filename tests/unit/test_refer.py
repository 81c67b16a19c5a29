"""Reading REFER files: by hand-made cases, by brute force, and on real RefCOCOg records."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco

from magnet.data import read_refer, select_split, splits
from magnet.data.masks import object_rle
from magnet.metrics import rle_decode

REAL = os.environ.get("MAGNET_REAL_DATA")
needs_real_data = pytest.mark.skipif(not REAL, reason="MAGNET_REAL_DATA is unset")
HEIGHT, WIDTH = 40, 60


def square(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def runs_of(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO counts, the slow way: runs down the columns, the first of them background."""
    counts, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


class Toy:
    """Two objects with three sentences on one image, to be damaged in one place per test."""

    def __init__(self, root: Path):
        self.root, self.folder = root, root / "toy"
        self.images = [{"id": 7, "file_name": "seven.jpg", "height": HEIGHT, "width": WIDTH}]
        self.annotations = [
            {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [square(5, 5, 15, 25)]},
            {"id": 2, "image_id": 7, "category_id": 3, "segmentation": [square(40, 10, 60, 30)]},
        ]
        self.categories = [{"id": 3, "name": "cup"}]
        self.refs = [
            {"ref_id": 0, "ann_id": 1, "image_id": 7, "category_id": 3, "split": "train", "file_name": "x_1.jpg",
             "sent_ids": [0, 1], "sentences": [{"sent_id": 0, "raw": "Left cup", "sent": "left cup", "tokens": []},
                                               {"sent_id": 1, "sent": "the small one"}]},
            {"ref_id": 1, "ann_id": 2, "image_id": 7, "category_id": 3, "split": "val", "file_name": "x_2.jpg",
             "sent_ids": [2], "sentences": [{"sent_id": 2, "raw": "right cup", "kind": "location", "hops": 0}]},
        ]  # fmt: skip

    def write(self, protocol: int = 2) -> "Toy":
        self.folder.mkdir(exist_ok=True)
        parts = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        (self.folder / "instances.json").write_text(json.dumps(parts))
        (self.folder / "refs(me).p").write_bytes(pickle.dumps(self.refs, protocol=protocol))
        return self

    def read(self, **options) -> pd.DataFrame:
        return read_refer(self.root, "toy", "me", **options)


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path)


def test_one_row_per_expression_with_its_object(toy):
    table = toy.write().read()
    assert table["text"].tolist() == ["Left cup", "the small one", "right cup"]  # raw, or sent where raw is missing
    assert table["sent_id"].tolist() == [0, 1, 2] and table["ref_id"].tolist() == [0, 0, 1]
    assert set(table["file"]) == {"seven.jpg"}  # not the ref's, which carries the annotation id
    assert set(table["category"]) == {"cup"} and set(table["num_same_category"]) == {2}
    assert table["area"].tolist() == [200, 200, 400] and table["touches_border"].tolist() == [False, False, True]
    mask = rle_decode(table["rle"][0], HEIGHT, WIDTH)
    assert mask.sum() == 200 and mask[5:25, 5:15].all()
    for name in ("sent_id", "ref_id", "ann_id", "image_id", "category_id", "height", "width", "area"):
        assert table[name].dtype == np.int64, name
    assert table.attrs["images"] == str(toy.root / "images" / "train2014") and table.attrs["problems"] == []


def test_other_fields_of_sentences_become_columns(toy):
    for ref in toy.refs:
        for sentence in ref["sentences"]:
            sentence |= {"program": ["unique", {"shape": "star"}], "hops": sentence["sent_id"]}
    table = toy.write().read()
    assert table["hops"].tolist() == [0, 1, 2] and json.loads(table["program"][0])[1] == {"shape": "star"}


def test_own_images_lie_beside_the_refs(toy):
    toy.write()
    (toy.folder / "images").mkdir()
    assert toy.read().attrs["images"] == str(toy.folder / "images")


def test_root_comes_from_the_environment(toy, monkeypatch):
    toy.write()
    monkeypatch.setenv("MAGNET_DATA", str(toy.root))
    assert len(read_refer(None, "toy", "me")) == 3


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_pickles_of_any_protocol_and_json_say_the_same(toy, protocol):
    expected = toy.write(protocol).read(cache=False)
    (toy.folder / "refs(me).json").write_text(json.dumps(toy.refs))
    (toy.folder / "refs(me).p").unlink()
    pd.testing.assert_frame_equal(toy.read(cache=False), expected)


def test_python_2_pickle_with_bytes_strings(toy):
    toy.write()
    text = b"(lp0\n(dp1\nS'ref_id'\np2\nI0\nsS'ann_id'\np3\nL1L\nsS'image_id'\np4\nI7\nsS'split'\np5\nS'train'\np6\n"
    text += b"sS'sentences'\np7\n(lp8\n(dp9\nS'sent_id'\np10\nI5\nsS'raw'\np11\nS'caf\\xe9 cup'\np12\nsasa."
    (toy.folder / "refs(me).p").write_bytes(text)
    assert toy.read()["text"].tolist() == ["café cup"]


# Masks


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


# What does not fit


def damage(toy: Toy, what: str) -> None:
    sentence = toy.refs[1]["sentences"][0]
    match what:
        case "no annotation":
            toy.refs[1]["ann_id"] = 99
        case "no image":
            toy.annotations[1]["image_id"] = toy.refs[1]["image_id"] = 8
        case "other image":
            toy.refs[1]["image_id"] = 8
        case "no category":
            toy.annotations[1]["category_id"] = 4
        case "empty expression":
            sentence["raw"] = " \t"
        case "repeated sent_id":
            sentence["sent_id"] = 0
        case "repeated ref_id":
            toy.refs[1]["ref_id"] = 0
        case "repeated annotation":
            toy.annotations.append(dict(toy.annotations[1]))
        case "text is no string":
            sentence["raw"] = 5
        case "no split":
            del toy.refs[1]["split"]
        case "ann_id is a list":
            toy.refs[1]["ann_id"] = [2]
        case "no sentences":
            toy.refs[1]["sentences"] = []
        case "no height":
            toy.images.append({"id": 8, "file_name": "eight.jpg", "height": None, "width": WIDTH})
            toy.annotations[1]["image_id"] = toy.refs[1]["image_id"] = 8
        case "no area":
            toy.images.append({"id": 8, "file_name": "eight.jpg", "height": 0, "width": WIDTH})
            toy.annotations[1]["image_id"] = toy.refs[1]["image_id"] = 8


DAMAGES = {
    "no annotation": "ref 1: annotation 99 is not in instances.json",
    "no image": "ref 1: image 8 is not in instances.json",
    "other image": "ref 1: image_id is 8, but its annotation 2 lies on image 7",
    "no category": "ref 1: category 4 is not in instances.json",
    "empty expression": "ref 1, sentence 2: the expression is empty",
    "repeated sent_id": "ref 1, sentence 0: sent_id 0 comes more than once",
    "repeated ref_id": "ref 0: ref_id 0 comes more than once",
    "repeated annotation": "annotations: id 2 comes more than once",
    "text is no string": "ref 1, sentence 2: raw is 5, not a string",
    "no split": "ref 1: no field 'split'",
    "ann_id is a list": "ref 1: ann_id is [2], not a whole number",
    "no sentences": "ref 1: sentences is [], not a list of sentences",
    "no height": "ref 1: height is None, not a whole number",
    "no area": "ref 1: the image is said to be 60 x 0 pixels",
}


@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.parametrize("cache", [True, False])
def test_what_does_not_fit_raises_or_is_listed(toy, what, cache):
    damage(toy, what)
    toy.write()
    for _ in range(2):  # the second time from the cache
        with pytest.raises(ValueError) as error:
            toy.read(cache=cache)
        assert DAMAGES[what] in str(error.value) and str(toy.folder) in str(error.value)
        assert 'on_problem="list"' in str(error.value)
    with pytest.warns(UserWarning, match="left out"):
        table = toy.read(cache=cache, on_problem="list")
    assert table["sent_id"].tolist() == [0, 1]  # the sound rows, and only they
    assert any(DAMAGES[what] in problem for problem in table.attrs["problems"])


def test_all_problems_are_counted_and_five_are_shown(toy):
    toy.refs += [{**toy.refs[1], "ref_id": 10 + i, "ann_id": 100 + i} for i in range(8)]
    with pytest.raises(ValueError, match="8 problems") as error:
        toy.write().read()
    assert str(error.value).count("is not in instances.json") == 5


def test_nothing_usable_is_a_problem_of_its_own(toy):
    toy.refs = []
    with pytest.raises(ValueError, match="no usable ref"):
        toy.write().read()


def test_what_does_not_exist_is_answered_with_what_does(toy):
    toy.write()
    with pytest.raises(FileNotFoundError, match=r"holds toy; data/README.md"):
        read_refer(toy.root, "refcoco", "unc")
    with pytest.raises(FileNotFoundError, match="magnet data shapes --root"):
        read_refer(toy.root)
    with pytest.raises(ValueError, match="split_by can be me;"):
        read_refer(toy.root, "toy", "unc")
    with pytest.raises(ValueError, match=r"no split 'test' in toy; there are train \(2 expressions\), val \(1"):
        select_split(toy.read(), "test")
    (toy.folder / "instances.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"instances.json does not exist"):
        toy.read()


@pytest.mark.parametrize("option", [{"polygon_overlap": "none"}, {"on_problem": "ignore"}])
def test_unknown_options_are_refused(toy, option):
    with pytest.raises(ValueError, match="one of"):
        toy.write().read(**option)


def test_splits(toy):
    table = toy.write().read()
    assert splits(table) == {"train": 2, "val": 1}
    val = select_split(table, "val")
    assert val["sent_id"].tolist() == [2] and val.index.tolist() == [0] and val.attrs == table.attrs


# Hostile and damaged files


class Bomb:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_imports_is_refused_before_it_runs(toy, tmp_path, protocol):
    toy.refs.append(Bomb(f"touch {tmp_path}/exploded"))
    with pytest.raises(ValueError, match=r"refs\(me\).p is refused: it wants to import .*system"):
        toy.write(protocol).read()
    assert not (tmp_path / "exploded").exists() and not (toy.folder / ".cache").exists()


def test_even_a_harmless_import_is_refused(toy):
    toy.refs[0]["ref_id"] = np.int64(0)
    with pytest.raises(ValueError, match="it wants to import numpy"):
        toy.write().read()


@pytest.mark.parametrize("name", ["refs(me).p", "instances.json", "refs(me).json"])
def test_truncated_files_are_named_with_a_remedy(toy, name):
    toy.write()
    if name == "refs(me).json":
        (toy.folder / "refs(me).p").unlink()
        (toy.folder / name).write_text(json.dumps(toy.refs))
    whole = (toy.folder / name).read_bytes()
    for length in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        (toy.folder / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged or cut short") as error:
            toy.read()
        assert str(toy.folder / name) in str(error.value) and "data/README.md" in str(error.value)


def test_noise_in_a_pickle_never_escapes_as_another_error(toy):
    """Every outcome of a hundred damaged pickles is a table or a ValueError."""
    toy.write()
    file, rng = toy.folder / "refs(me).p", np.random.default_rng(0)
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    for _ in range(100):
        noisy = whole.copy()
        noisy[rng.integers(len(whole), size=3)] = rng.integers(256, size=3)
        file.write_bytes(noisy.tobytes())
        try:
            toy.read(cache=False)
        except ValueError as error:
            assert "refs(me).p" in str(error)


@pytest.mark.parametrize("content", ["[]", '{"images": []}', '{"images": [{"id": "a"}]}', "5", '"x"'])
def test_json_of_another_form_is_named(toy, content):
    (toy.write().folder / "instances.json").write_text(content)
    with pytest.raises(ValueError, match=r"instances.json.* (has no list|lacks)"):
        toy.read()
    toy.write()
    (toy.folder / "refs(me).p").write_bytes(pickle.dumps({"not": "a list"}))
    with pytest.raises(ValueError, match="holds no list of refs"):
        toy.read()


# The cache


def cache_of(toy: Toy) -> Path:
    return toy.folder / ".cache" / "me-hole.parquet"


def test_the_cached_table_is_the_same_and_is_used(toy, monkeypatch):
    first = toy.write().read()
    monkeypatch.setattr("magnet.data.refer.load_refs", lambda file: pytest.fail("the source was read again"))
    second = toy.read()
    pd.testing.assert_frame_equal(first, second)
    assert first.attrs == second.attrs
    assert [path.name for path in cache_of(toy).parent.iterdir()] == ["me-hole.parquet"]  # no temporary file is left


def test_a_changed_source_is_noticed(toy):
    toy.write().read()
    before = (toy.folder / "refs(me).p").stat()
    toy.refs[0]["sentences"][0]["raw"] = "Cup left"  # of the same length
    toy.write()
    assert (toy.folder / "refs(me).p").stat().st_size == before.st_size
    assert toy.read()["text"][0] == "Cup left"
    toy.images[0]["file_name"] = "eight.jpg"
    toy.write()
    assert toy.read()["file"][0] == "eight.jpg"


def test_a_newer_format_is_not_trusted(toy, monkeypatch):
    toy.write().read()
    monkeypatch.setattr("magnet.data.refer.FORMAT", 10**6)
    monkeypatch.setattr("magnet.data.refer.add_tags", lambda table: table.assign(new=1))
    assert "new" in toy.read()


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "other"])
def test_a_damaged_cache_is_made_anew(toy, damage):
    expected, file = toy.write().read(), cache_of(toy)
    whole = file.read_bytes()
    pieces = {"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"x" * 500}
    if damage == "other":
        pd.DataFrame({"a": [1]}).to_parquet(file)  # somebody else's: replaced without a word
        pd.testing.assert_frame_equal(toy.read(), expected)
    else:
        file.write_bytes(pieces[damage])
        with pytest.warns(UserWarning, match=r"me-hole.parquet is damaged .* made anew"):
            pd.testing.assert_frame_equal(toy.read(), expected)
    assert len(pd.read_parquet(file)) == 3


def test_a_failing_disk_costs_only_the_cache(toy, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.warns(UserWarning, match="not cached.*No space left"):
        assert len(toy.write().read()) == 3
    assert not cache_of(toy).exists()


def test_a_read_only_source_is_cached_elsewhere(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    toy.write().folder.chmod(0o555)
    try:
        expected = toy.read()
        assert not (toy.folder / ".cache").exists() and list((tmp_path / "user").rglob("me-hole.parquet"))
        pd.testing.assert_frame_equal(toy.read(), expected)
    finally:
        toy.folder.chmod(0o755)


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
    assert len(table) == 13 and splits(table) == {"val": 13}
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
