"""RefShapes on disk: REFER files, the same bytes for any number of workers, checked by brute force on the masks."""

import json
import pickle
from collections import Counter
from itertools import combinations
from math import hypot
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

import magnet
from magnet.data import read_refer
from magnet.refshapes import sample, write_refshapes
from magnet.refshapes import write as writing
from magnet.refshapes.write import SIZES

ASSETS = Path(magnet.__file__).parent / "assets"
NAMES = ("instances.json", "refs(v1).p")


def read(root: Path) -> tuple[list, dict]:
    folder = root / "refshapes"
    return pickle.loads((folder / NAMES[1]).read_bytes()), json.loads((folder / NAMES[0]).read_text())


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mini")
    write_refshapes(root, "mini", num_workers=1, progress=False)
    return root


def test_any_number_of_workers_writes_the_same_bytes(mini, tmp_path):
    write_refshapes(tmp_path, "mini", num_workers=2, progress=False)
    files = sorted(path.relative_to(mini) for path in mini.rglob("*") if path.is_file())
    assert len(files) == 2 + sum(SIZES["mini"].scenes.values())
    assert all((mini / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_the_shipped_set_is_what_the_generator_writes(mini):
    """Pictures are compared loosely: JPEG libraries differ."""
    assert read(mini) == read(ASSETS)
    shipped = sorted((ASSETS / "refshapes/images").iterdir())
    assert len(shipped) == sum(SIZES["mini"].scenes.values())
    for path in shipped:
        made = np.asarray(Image.open(mini / "refshapes/images" / path.name), int)
        assert np.abs(made - np.asarray(Image.open(path), int)).mean() < 2
    files = [path for path in (ASSETS / "refshapes").rglob("*") if path.is_file() and ".cache" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 2e6


def test_a_complete_set_is_found_and_another_is_not_overwritten(mini, capsys):
    before = {name: (mini / "refshapes" / name).stat().st_mtime_ns for name in NAMES}
    assert write_refshapes(mini, "mini", progress=False) == mini / "refshapes"
    assert "already there" in capsys.readouterr().out
    for other in ({"seed": 1}, {"image_size": 64}, {"special_splits": True}):
        with pytest.raises(FileExistsError, match="rm -r"):
            write_refshapes(mini, "mini", progress=False, **other)
    assert before == {name: (mini / "refshapes" / name).stat().st_mtime_ns for name in NAMES}


def test_an_interrupted_set_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(writing.pickle, "dumps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_refshapes(tmp_path, "mini", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'large'.*mini, small, full"):
        write_refshapes(tmp_path, "large")


def test_files_are_plain_refer_files(mini):
    refs, instances = read(mini)
    raw = (mini / "refshapes" / NAMES[1]).read_bytes()
    assert raw[:2] == b"\x80\x02" and b"numpy" not in raw
    things = {thing["id"]: thing for thing in instances["annotations"]}
    images = {image["id"]: image for image in instances["images"]}
    assert len({image["file_name"] for image in images.values()}) == len(images)
    split_of = {}
    for ref in refs:
        thing = things[ref["ann_id"]]
        assert (thing["image_id"], thing["category_id"]) == (ref["image_id"], ref["category_id"])
        assert images[ref["image_id"]]["file_name"] == ref["file_name"]
        assert ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]]
        assert split_of.setdefault(ref["image_id"], ref["split"]) == ref["split"]  # images are disjoint between splits
    assert set(split_of.values()) == set(SIZES["mini"].scenes)
    assert len({(ref["image_id"], ref["ann_id"]) for ref in refs}) == len(refs)
    sent_ids = [number for ref in refs for number in ref["sent_ids"]]
    assert sent_ids == list(range(1, len(sent_ids) + 1))


def test_the_one_reading_path_reads_it(mini):
    table = read_refer(mini, cache=False)
    assert len(table) == sum(len(ref["sentences"]) for ref in read(mini)[0])
    row = table[table["file"] == "testB_000003.jpg"].iloc[0]
    found = sample(0, 3, "testB")
    assert row["text"] == found.expressions[0].text and json.loads(row["program"]) == found.expressions[0].program
    assert coco.decode({"size": [96, 96], "counts": row["rle"]}).sum() == found.masks[found.expressions[0].target].sum()


def test_evaluation_splits_of_small_have_about_five_hundred_expressions_each():
    numbers = {split: 2 * num for split, num in SIZES["small"].scenes.items() if split != "train"}
    assert all(400 <= number <= 600 for number in numbers.values()) and sum(numbers.values()) <= 3000
    assert SIZES["small"].scenes["train"] == 4000


def test_special_splits_follow_grefcoco(tmp_path, monkeypatch):
    tiny = writing.Size(32, {"train": 2, "testA": 6})
    monkeypatch.setitem(SIZES, "mini", tiny)
    write_refshapes(tmp_path, "mini", special_splits=True, progress=False)
    refs, instances = read(tmp_path)
    things = {thing["id"]: thing for thing in instances["annotations"]}
    none = [ref for ref in refs if ref["split"] == "no_target"]
    many = [ref for ref in refs if ref["split"] == "multi_target"]
    assert none and all(ref["ann_id"] == [-1] and ref["no_target"] for ref in none)
    assert many and all(len(ref["ann_id"]) > 1 and not ref["no_target"] for ref in many)
    assert all(things[k]["image_id"] == ref["image_id"] for ref in many for k in ref["ann_id"])


# ---- every sentence of the shipped set, judged by another's eyes: from masks alone, without facts or margins


class Seen:
    """An object as its mask shows it: centroid, extent and named attributes."""

    def __init__(self, thing: dict, categories: dict[int, str]) -> None:
        rows, columns = np.nonzero(coco.decode(thing["segmentation"]))
        self.id, self.x, self.y = thing["id"], columns.mean() / 96, rows.mean() / 96
        self.extent = max(np.ptp(rows), np.ptp(columns)) / 96
        self.pixels = np.stack([columns, rows], 1) / 96
        self.attributes = {**thing["attributes"], "shape": categories[thing["category_id"]]}


DIRECTIONS = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
ORDER = {
    "left": lambda seen: seen.x,
    "right": lambda seen: -seen.x,
    "top": lambda seen: seen.y,
    "bottom": lambda seen: -seen.y,
    "largest": lambda seen: -seen.extent,
    "smallest": lambda seen: seen.extent,
}


def related(one: Seen, relation: str, other: Seen) -> bool:
    if relation == "next to":
        closest = np.sqrt(((one.pixels[:, None] - other.pixels[None]) ** 2).sum(-1)).min()
        return closest < 0.12
    dx, dy = other.x - one.x, other.y - one.y
    u, v = DIRECTIONS[relation]
    along, across = dx * u + dy * v, abs(dx * v) + abs(dy * u)
    return along > 0.9 * across


def distance(one: Seen, other: Seen) -> float:
    return hypot(one.x - other.x, one.y - other.y)


def looked_up(program: list, everything: list[Seen]) -> list[Seen]:
    """The plain meaning of a program; where sizes are hidden by occlusion the answer may be too long."""
    operation, first, *rest = program
    if operation == "objects":
        return [seen for seen in everything if all(seen.attributes[name] == first[name] for name in first)]
    chosen = looked_up(first, everything)
    if operation == "location":
        half = {"left": "x", "right": "x", "top": "y", "bottom": "y"}
        if rest[0] == "middle":
            return [seen for seen in chosen if max(abs(seen.x - 0.5), abs(seen.y - 0.5)) < 0.19]
        for word in rest[0].split():
            chosen = [s for s in chosen if (getattr(s, half[word]) < 0.5) == (word in ("left", "top"))]
        return chosen
    if operation in ("superlative", "ordinal"):
        rank = rest[1] if len(rest) > 1 else 1
        return sorted(chosen, key=ORDER[rest[0]])[rank - 1 : rank]
    if operation == "that is":
        return [seen for seen in chosen if rest[0] in seen.attributes.values()]
    if operation == "except":
        excluded = looked_up(rest[0], everything)
        return [seen for seen in chosen if seen not in excluded]
    anchors = looked_up(rest[1], everything)
    if rest[0] == "closer":
        ((a,), (b,)) = anchors, looked_up(rest[2], everything)
        return [seen for seen in chosen if distance(seen, a) < distance(seen, b)]
    near, _, size = rest[0].rpartition(" ")
    if size not in ("larger", "smaller"):
        return [seen for seen in chosen if any(related(seen, rest[0], anchor) for anchor in anchors)]
    sign = (1 if size == "larger" else -1) * (-1 if near else 1)
    return [
        seen
        for seen in chosen
        if any(sign * (s.extent - o.extent) > 0 and (not near or related(s, near, o)) for s in [seen] for o in anchors)
    ]


def test_masks_alone_lead_to_the_same_object():
    refs, instances = read(ASSETS)
    categories = {category["id"]: category["name"] for category in instances["categories"]}
    scenes: dict[int, list[Seen]] = {}
    for thing in instances["annotations"]:
        scenes.setdefault(thing["image_id"], []).append(Seen(thing, categories))
    agreed = Counter()
    for ref in refs:
        for sentence in ref["sentences"]:
            found = looked_up(json.loads(sentence["program"]), scenes[ref["image_id"]])
            right = [seen.id for seen in found] == [ref["ann_id"]]
            assert right or "larg" in sentence["program"] or "small" in sentence["program"], sentence
            agreed[right] += 1
    assert agreed[True] / agreed.total() > 0.97


def test_no_two_scenes_of_the_shipped_set_look_alike():
    pictures = [np.asarray(Image.open(path), int) for path in (ASSETS / "refshapes/images").iterdir()]
    assert min(np.abs(a - b).mean() for a, b in combinations(pictures, 2)) > 10
