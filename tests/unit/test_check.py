"""`magnet data check`: everything that is wrong in one go, whatever else is damaged."""

import json

import pytest
from PIL import Image
from refer_toy import HEIGHT, WIDTH, Toy, square
from test_union import SETS, write_set

from magnet import cli
from magnet.data.family import COUNTS


@pytest.fixture
def toy(tmp_path) -> Toy:
    toy = Toy(tmp_path)
    toy.write()
    (toy.folder / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(toy.folder / "images" / "seven.jpg")
    return toy


@pytest.fixture
def check(tmp_path, monkeypatch, capsys, recwarn):
    """(exit code, printed lines) of the command; it must not warn of what it prints."""

    def run(name="toy", split_by="me"):
        options = ["--name", name, "--split-by", split_by, "--root", str(tmp_path)]
        monkeypatch.setattr("sys.argv", ["magnet", "data", "check", *options])
        try:
            cli.main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        assert not [str(each.message) for each in recwarn if "records" in str(each.message)]
        said = capsys.readouterr()
        return code, (said.out + said.err).splitlines()

    return run


def test_a_sound_data_set_has_no_problems(toy, check):
    code, lines = check()
    assert code == 0 and lines[-1] == "1 pictures, 0 problems"


def test_records_and_pictures_are_listed_and_the_rest_is_counted(toy, check):
    toy.refs += [{**toy.refs[1], "ref_id": 10 + i, "ann_id": 100 + i} for i in range(25)]
    toy.annotations[0]["segmentation"] = [square(-50, 5, 20, 25)]
    toy.write()
    Image.new("RGB", (5, 5)).save(toy.folder / "images" / "seven.jpg")
    code, lines = check()
    assert code == 1 and lines[-1] == "1 pictures, 26 problems (records 25, pictures 1)"
    assert sum("is not in instances.json" in line for line in lines) == 20 and "and 5 more like these" in lines
    assert any("seven.jpg is 5 x 5 pixels" in line for line in lines)
    assert any(line.startswith("note: ") and "leaves the picture by 50 pixels" in line for line in lines)
    assert any(line.split() == ["train", "1", "1", "2"] for line in lines)


def test_a_data_set_without_a_usable_record_is_checked_to_the_end(toy, check):
    for ref in toy.refs:
        ref["ann_id"] = 99
    toy.write()
    code, lines = check()
    assert code == 1 and lines[-1] == "0 pictures, 3 problems (records 3)"


def write_family(root) -> None:
    for name, split_by in SETS:
        splits = {1: "train", 2: "val"} if name == "refcoco" else {1: "val", 2: "train"}
        named = {"val": "test" if split_by == "google" else "val", "train": "train"}
        write_set(root, name, split_by, {image: named[split] for image, split in splits.items()})
    (root / "images" / "train2014").mkdir(parents=True)
    for image in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "train2014" / f"{image}.jpg")


def test_another_data_set_that_is_damaged_is_a_note(tmp_path, check, monkeypatch):
    monkeypatch.delitem(COUNTS, ("refcoco", "unc"))
    write_family(tmp_path)
    toy = write_set(tmp_path, "refcocog", "umd", {1: "val", 3: "train"})
    toy.refs[1]["ann_id"] = 99
    (tmp_path / "refcocog" / "refs(umd).p").unlink()
    (tmp_path / "refcocog" / "refs(umd).json").write_text(json.dumps(toy.refs))  # JSON does as well as a pickle
    (tmp_path / "refcoco+" / "refs(unc).p").write_bytes(b"x")
    code, lines = check("refcoco", "unc")
    assert code == 0 and lines[-1] == "2 pictures, 0 problems"
    notes = [line.removeprefix("note: ") for line in lines if line.startswith("note: ")]
    assert any(note.startswith("which images refcoco+ unc is scored on is unknown: ") for note in notes)
    assert "refcocog umd has 1 problems of its own: magnet data check lists them" in notes
    assert "1 images of refcocog umd val are training images, too" in notes


@pytest.mark.parametrize("name, own, other", [("refcoco", "unc", "google"), ("refcocog", "google", "umd")])
def test_a_refs_file_under_anothers_name_is_a_problem(tmp_path, check, monkeypatch, name, own, other):
    for way in SETS:
        monkeypatch.delitem(COUNTS, way, raising=False)
    write_family(tmp_path)
    assert check(name, own)[0] == 0
    here, there = (tmp_path / name / f"refs({split_by}).p" for split_by in (own, other))
    here.write_bytes(there.read_bytes())
    code, lines = check(name, own)
    assert code == 1 and lines[-1].endswith("1 problems (files 1)")
    assert any(f"{here} and {there} put the same objects into the same splits" in line for line in lines)
    code, lines = check("union", "umd")
    assert code == 2 and len(lines) == 1 and "one is a copy of the other under a wrong name" in lines[0]
    assert check("refcoco+", "unc")[0] == 0  # which has one refs file


def test_the_union_is_as_sound_as_its_parts(tmp_path, check, monkeypatch):
    for way in SETS:
        monkeypatch.delitem(COUNTS, way, raising=False)
    write_family(tmp_path)
    code, lines = check("union", "umd")
    assert code == 0 and lines[-1].endswith("0 problems")
    monkeypatch.setitem(COUNTS, ("refcoco", "google"), {"train": (2, 1, 1)})
    toy = write_set(tmp_path, "refcoco+", "unc", {1: "val", 3: "train"})
    toy.refs[1]["ann_id"] = 99
    (tmp_path / "refcoco+" / "refs(unc).p").unlink()
    (tmp_path / "refcoco+" / "refs(unc).json").write_text(json.dumps(toy.refs))
    code, lines = check("union", "umd")
    assert code == 1 and lines[-1].endswith("3 problems (numbers 2, records 1)")
    assert "refcoco google: train: 1 objects, not 2" in lines
    assert any("refcoco+/refs(unc).json: ref 1: annotation 99" in line for line in lines)
    code, lines = check("union", "nonsense")
    assert code == 2 and lines == ["magnet: split_by='nonsense': one of umd"]
