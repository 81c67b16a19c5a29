"""Several sources made one table: the union of the three training sets, and COCO files with expressions."""

import json
import pickle

import pytest
from refer_toy import Toy

from magnet.data import read_refer
from magnet.data.instances import read_instances
from magnet.data.union import PARTS, STEP

SETS = [("refcoco", "unc"), ("refcoco", "google"), ("refcoco+", "unc"), ("refcocog", "umd"), ("refcocog", "google")]


def write_set(root, name: str, split_by: str, splits: dict[int, str]) -> Toy:
    """A data set of one sentence a picture; splits: image id -> split."""
    toy = Toy(root)
    toy.images = [{**toy.images[0], "id": image, "file_name": f"{image}.jpg"} for image in range(10)]
    toy.annotations = [{**toy.annotations[0], "id": image, "image_id": image} for image in range(10)]
    toy.refs = [
        {
            "ref_id": n,
            "ann_id": image,
            "image_id": image,
            "split": split,
            "sentences": [{"sent_id": n, "raw": "the cup"}],
        }
        for n, (image, split) in enumerate(splits.items())
    ]
    toy.folder = root / name
    toy.write()
    (toy.folder / "refs(me).p").rename(toy.folder / f"refs({split_by}).p")
    return toy


def test_the_union_holds_no_picture_that_is_scored(tmp_path):
    splits = {
        ("refcoco", "unc"): {0: "train", 1: "train", 2: "val"},
        ("refcoco", "google"): {3: "test"},
        ("refcoco+", "unc"): {0: "train", 2: "train", 3: "train", 4: "train", 5: "testB"},
        ("refcocog", "umd"): {0: "train", 5: "train", 6: "train", 7: "train", 8: "val"},
        ("refcocog", "google"): {6: "val", 7: "train"},
    }
    for way in SETS:
        write_set(tmp_path, *way, splits[way])
    union = read_refer(tmp_path, "union", "umd")
    train = union[union["split"] == "train"]
    assert list(zip(train["dataset"], train["image_id"])) == [
        ("refcoco", 0), ("refcoco", 1), ("refcoco+", 0), ("refcoco+", 4), ("refcocog", 0), ("refcocog", 7),
    ]  # fmt: skip
    scored = {image for images in splits.values() for image, split in images.items() if split != "train"}
    assert not scored & set(train["image_id"])
    assert union.loc[union["split"] == "val", "image_id"].tolist() == [2, 8]
    assert union.attrs["left_out"] == {"refcoco": 0, "refcoco+": 2, "refcocog": 2}
    assert union["sent_id"].is_unique and set(union["sent_id"] // STEP) == set(range(len(PARTS)))
    objects = {image: [thing["id"] for thing in things] for image, things in read_instances(union).items()}
    assert objects == {image: [image] for image in union["image_id"]}  # the same ones in all three sets: once


def test_without_one_of_the_sets_nobody_can_say_what_leaks(tmp_path):
    for way in SETS[:-1]:
        write_set(tmp_path, *way, {0: "train"})
    with pytest.raises(ValueError, match=r"no .*refcocog/refs\(google\)\.p"):
        read_refer(tmp_path, "union", "umd")


def test_a_picture_stays_held_out_when_its_record_is_left_out(tmp_path):
    for name, split_by in SETS:
        write_set(tmp_path, name, split_by, {1: "train", 2: "train"} | ({} if split_by == "google" else {3: "train"}))
    toy = write_set(tmp_path, "refcoco+", "unc", {1: "train", 2: "val", 3: "test"})
    toy.refs[1]["ann_id"] = 99  # no such object: its picture is known from the ref
    toy.refs[2]["image_id"] = 98  # no such picture: it is known from the object
    (toy.folder / "refs(unc).p").write_bytes(pickle.dumps(toy.refs))
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match="2 records left out"):
            union = read_refer(tmp_path, "union", "umd", on_problem="list")
        assert set(union.loc[union["split"] == "train", "image_id"]) == {1}
        assert [problem.partition(": ")[2] for problem in union.attrs["problems"]] == [
            "ref 1: annotation 99 is not in instances.json",
            "ref 2: image_id is 98, but its annotation 3 lies on image 3",
        ]
        assert set(union.attrs["held_out"]) == {2, 3, 98}


def test_a_part_without_a_usable_record_is_listed(tmp_path):
    for name, split_by in SETS:
        splits = {1: "train"} if split_by == "google" else {1: "train", 2: "val"}
        write_set(tmp_path, name, split_by, splits if name != "refcoco+" else {})
    with pytest.warns(UserWarning, match="no usable ref"):
        union = read_refer(tmp_path, "union", "umd", on_problem="list")
    assert set(union["dataset"]) == {"refcoco", "refcocog"} and len(union.attrs["problems"]) == 1
    assert union["sent_id"].dtype == "int64"


@pytest.mark.parametrize("name, split_by", [("refcoco", "unc"), ("refcocog", "umd")])
def test_a_refs_file_that_is_a_copy_hides_what_leaks(tmp_path, name, split_by):
    for way in SETS:
        write_set(tmp_path, *way, {1: "train", 2: "test" if way[1] == "google" else "val"})
    read_refer(tmp_path, "union", "umd")
    refs = tmp_path / name / f"refs({split_by}).p"
    refs.with_stem("refs(google)").write_bytes(refs.read_bytes())
    both = rf"{name}/refs\({split_by}\)\.p and .*{name}/refs\(google\)\.p put .* one is a copy of the other"
    with pytest.raises(ValueError, match=both):
        read_refer(tmp_path, "union", "umd", on_problem="list")


def test_the_union_has_one_way_to_be_split(tmp_path):
    with pytest.raises(ValueError, match="split_by='nonsense': one of umd"):
        read_refer(tmp_path, "union", "nonsense")


# --- COCO files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def coco(tmp_path):
    """Two COCO files, train.json and val.json, of one picture each."""
    toy = Toy(tmp_path)
    toy.folder.mkdir()
    files = {}
    for number, split in enumerate(("train", "val")):
        images = [{**toy.images[0], "id": number}]
        annotations = [{**one, "id": 10 * number + one["id"], "image_id": number} for one in toy.annotations]
        files[split] = {"images": images, "annotations": annotations, "categories": toy.categories}
    files["train"]["annotations"][0]["expression"] = "the left cup"
    files["val"]["annotations"][1]["expressions"] = ["the right cup", "the large cup"]

    def write():
        for split, contents in files.items():
            (toy.folder / f"{split}.json").write_text(json.dumps(contents))
        return read_refer(tmp_path, "toy", "coco")

    return files, write


def test_coco_files_with_expressions_are_a_data_set(coco):
    _, write = coco
    table = write()
    assert table["text"].tolist() == ["the left cup", "the right cup", "the large cup"]
    assert table["split"].tolist() == ["train", "val", "val"] and table["ann_id"].tolist() == [1, 12, 12]
    assert table["sent_id"].tolist() == [0, 1, 2] and table["ref_id"].tolist() == [0, 1, 1]
    assert table["area"].tolist() == [200, 400, 400] and set(table["num_same_category"]) == {2}
    assert write().equals(table)  # from the cache


def test_an_id_that_means_two_things_is_refused(coco):
    files, write = coco
    files["val"]["images"].append({**files["train"]["images"][0], "file_name": "other.jpg"})
    with pytest.raises(ValueError, match=r"val\.json: images: id 0 is something else in a file before it"):
        write()


def test_a_left_over_file_is_refused_with_what_is_read(coco):
    files, write = coco
    files["instances"] = json.loads(json.dumps(files["train"]).replace("expression", "caption"))
    with pytest.raises(
        ValueError, match=r"every \.json of the folder .* instances\.json, train\.json, val\.json: move"
    ):
        write()


def test_an_annotation_may_have_both_fields_or_neither(coco):
    files, write = coco
    files["val"]["annotations"][0]["expression"] = "the nearest"
    files["val"]["annotations"][1]["expression"] = "the far cup"
    assert write()["text"].tolist() == ["the left cup", "the nearest", "the far cup", "the right cup", "the large cup"]
    files["val"]["annotations"][1]["expressions"] = []  # and nothing of the other field is lost
    assert write()["text"].tolist() == ["the left cup", "the nearest", "the far cup"]


@pytest.mark.parametrize("field", ["expression", "expressions"])
@pytest.mark.parametrize(
    "said, message",
    [
        ("", "the expression is empty: ''"), (None, "raw is None, not a string"), (0, "raw is 0, not a string"),
        ({"raw": "x"}, "raw is {'raw': 'x'}, not a string"), ([5], "raw is 5, not a string"),
        (["a", " "], "the expression is empty: ' '"), ([], "sentences is [], not a list of sentences"),
    ],
)  # fmt: skip
def test_expressions_that_are_none_are_problems(coco, field, said, message):
    files, write = coco
    files["val"]["annotations"][0][field] = said
    with pytest.raises(ValueError) as error:
        write()
    assert "val.json: annotation 11" in str(error.value) and f": {message}" in str(error.value)
    assert "1 problems" in str(error.value)
