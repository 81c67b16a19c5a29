"""The expression table: what becomes a row, and what does not fit."""

import json

import numpy as np
import pandas as pd
import pytest
from refer_toy import HEIGHT, WIDTH, Toy

from magnet.data import read_refer, select_split, splits
from magnet.metrics import rle_decode


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
            toy.refs[1]["ann_id"] = [2, -1]
        case "negative id":
            toy.refs[1]["ref_id"] = -1
        case "huge id":
            sentence["sent_id"] = 2**63
        case "half a character":
            sentence["raw"] = "cup \ud83d"
        case "field named as a column":
            sentence |= {"split": "val", "area": 5}
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
    "ann_id is a list": "ref 1: ann_id is [2, -1]: whole numbers from 0 are needed, or [-1] for no object",
    "negative id": "ref -1: ref_id is -1, not a whole number from 0",
    "huge id": "ref 1, sentence 9223372036854775808: sent_id is 9223372036854775808, not a whole number",
    "half a character": "ref 1, sentence 2: 'utf-8' codec can't encode",
    "field named as a column": "ref 1, sentence 2: the names area, split are the table's own",
    "no sentences": "ref 1: sentences is [], not a list of sentences",
    "no height": "ref 1: height is None, not a whole number from 0",
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
    with pytest.raises(FileNotFoundError, match=r"holds toy; `magnet data download refcoco --root .*` fetches it"):
        read_refer(toy.root, "refcoco", "unc")
    with pytest.raises(FileNotFoundError, match=r"holds toy; data/README.md"):
        read_refer(toy.root, "mine", "me")
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


# --- gRefCOCO: several objects, or none -------------------------------------------------------------------------------


def test_several_objects_make_one_mask_and_none_an_empty_one(toy):
    toy.refs[0] |= {"ann_id": [1, 2], "category_id": [3, 3], "no_target": False}
    toy.refs[1] |= {"ann_id": [-1], "category_id": [-1], "no_target": True}
    toy.write()
    (toy.folder / "grefs(me).json").write_text(json.dumps(toy.refs))
    (toy.folder / "refs(me).p").unlink()
    table = toy.read()
    assert table["num_targets"].tolist() == [2, 2, 0]
    assert table["area"].tolist() == [10 * 20 + 20 * 20] * 2 + [0]
    assert table["ann_id"].tolist() == [1, 1, -1] and table["category"].tolist() == ["cup", "cup", ""]
    masks = [rle_decode(rle, HEIGHT, WIDTH) for rle in table["rle"]]
    truth = np.zeros((HEIGHT, WIDTH), bool)
    truth[5:25, 5:15] = truth[10:30, 40:60] = True
    assert np.array_equal(masks[0], truth) and not masks[2].any()
    assert not table["touches_border"].iloc[2]


@pytest.mark.parametrize(
    "ann_id, no_target, says",
    [
        ([1], True, "no_target is True, but ann_id is [1]"),
        ([-1], False, "no_target is False, but ann_id is [-1]"),
        ([1, 2], "yes", "no_target is 'yes', but ann_id is [1, 2]"),
        ([1, 1], False, "ann_id is [1, 1]: an object comes twice"),
        ([True], False, "ann_id is [True]: whole numbers from 0 are needed"),
        (True, False, "ann_id is True, not a whole number from 0"),
    ],
)
def test_targets_that_contradict_themselves_are_a_problem(toy, ann_id, no_target, says):
    toy.refs[0] |= {"ann_id": ann_id, "no_target": no_target}
    with pytest.raises(ValueError) as error:
        toy.write().read()
    assert f"ref 0: {says}" in str(error.value)


def test_an_object_of_several_on_another_image_is_a_problem(toy):
    toy.images.append({**toy.images[0], "id": 8})
    toy.annotations[1]["image_id"] = 8
    toy.refs[0]["ann_id"] = [1, 2]
    toy.write()
    with pytest.raises(ValueError, match="ref 0: image_id is 7, but its annotation 2 lies on image 8"):
        toy.read()
