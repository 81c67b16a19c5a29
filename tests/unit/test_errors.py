"""Error kinds: hand-made answers of every kind, a second path over bool masks, and data sets in every form."""

import json
from itertools import count

import numpy as np
import pandas as pd
import pytest
from conftest import ASSETS
from pycocotools import mask as coco
from refer_toy import Toy, square

from magnet.data import read_refer
from magnet.data.instances import read_instances
from magnet.metrics import find_protocol, rle_decode, rle_encode
from magnet.refshapes.baselines import baseline_table
from magnet.workbench.errors import KINDS, error_kinds, error_shares

SIDE = 100
BOXES = {  # x0, y0, x1, y1
    "cup": (10, 10, 30, 30), "other cup": (50, 10, 70, 30), "plate": (10, 50, 40, 90), "spoon": (15, 55, 20, 70),
    "crowd": (60, 60, 100, 100),
}  # fmt: skip
CATEGORIES = {"cup": 3, "other cup": 3, "plate": 4, "spoon": 5, "crowd": 3}


def boxes(*several: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    for x0, y0, x1, y1 in several:
        mask[y0:y1, x0:x1] = True
    return mask


def counts(mask: np.ndarray) -> dict:
    """Uncompressed run lengths, as COCO writes crowds."""
    pixels = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels, prepend=False))
    return {"size": [SIDE, SIDE], "counts": np.diff([0, *edges, pixels.size]).tolist()}


class Kitchen(Toy):
    """Two cups, a plate with a spoon on it and a crowd of cups; polygons and one RLE. `say` adds a sentence."""

    def __init__(self, root):
        super().__init__(root)
        self.images = [{"id": image, "file_name": f"{image}.jpg", "height": SIDE, "width": SIDE} for image in (7, 8)]
        self.annotations = [
            {"id": k, "image_id": 7, "category_id": CATEGORIES[name], "segmentation": [square(*box)]}
            for k, (name, box) in enumerate(BOXES.items(), start=1)
        ]
        self.annotations[-1] |= {"segmentation": counts(boxes(BOXES["crowd"])), "iscrowd": 1}
        self.categories = [{"id": k, "name": name} for k, name in ((3, "cup"), (4, "plate"), (5, "spoon"))]
        self.refs, self.predictions, self.numbers = [], [], count()

    def say(self, target: int | list[int], prediction: np.ndarray, image: int = 7) -> None:
        number = next(self.numbers)
        self.refs.append({"ref_id": number, "ann_id": target, "image_id": image, "split": "val",
                          "sentences": [{"sent_id": number, "raw": "the cup"}]})  # fmt: skip
        self.predictions.append(prediction)

    def answered(self, protocol: str = "original") -> tuple[pd.DataFrame, pd.DataFrame]:
        """Results, in another order than the expressions and with an index of their own, and expressions."""
        expressions = self.write().read()
        table = expressions.assign(truth=[rle_decode(rle, SIDE, SIDE) for rle in expressions["rle"]])
        shared = [(p & t).sum() for p, t in zip(self.predictions, table["truth"])]
        either = [(p | t).sum() for p, t in zip(self.predictions, table["truth"])]
        iou = find_protocol(protocol).iou(np.array(shared), np.array(either))
        results = table.assign(rle=[rle_encode(p) for p in self.predictions], I=shared, U=either, iou=iou)
        results = (
            results[["sent_id", "image_id", "I", "U", "iou", "rle"]]
            .iloc[::-1]
            .set_index(pd.Index([f"row {k}" for k in range(len(table))][::-1]))
        )
        results.attrs["protocol"] = protocol
        return results, expressions

    def kinds(self, **options) -> list[str]:
        found = error_kinds(*self.answered(**options))
        return found.iloc[::-1].tolist()


@pytest.fixture
def kitchen(tmp_path) -> Kitchen:
    return Kitchen(tmp_path)


CUP, OTHER, PLATE, SPOON, CROWD = BOXES.values()
CASES = {  # what is marked where the first cup is meant (400 pixels at 10, 10) -> the kind
    "right": [CUP],
    "right, exactly half": [(10, 10, 30, 20)],
    "part, less than half": [(10, 10, 30, 19)],
    "part, with a little beside it": [(10, 10, 30, 18), (30, 10, 32, 20)],
    "right, twice as large": [(10, 10, 50, 30)],
    "too_much, three times as large": [(10, 5, 50, 35)],
    "too_much, covered in a mask that is mostly background": [(0, 0, 48, 48)],
    "too_much, as much added as missed": [(10, 10, 30, 21), (10, 31, 30, 40)],
    "wrong_instance": [OTHER],
    "wrong_instance, loosely": [(45, 5, 78, 34)],
    "wrong_instance, within the crowd": [(65, 65, 75, 75)],
    "wrong_category": [PLATE],
    "wrong_category, although the spoon on it is covered": [PLATE],
    "wrong_category, the spoon": [SPOON],
    "wrong_category, the plate loosely: no merging with a small spoon": [(0, 40, 55, 99)],
    "right, half of what is marked": [CUP, OTHER],
    "merged": [CUP, OTHER, (30, 10, 34, 30)],
    "merged, with a larger one that the mask fits": [CUP, PLATE],
    "wrong_category, with another one beside it": [OTHER, PLATE],
    "merged, not the truth": [OTHER, (10, 40, 50, 95)],
    "background": [(80, 0, 100, 40)],
    "background, touching": [(40, 30, 60, 60), (10, 29, 30, 50)],
    "empty": [],
}


@pytest.mark.parametrize("case", CASES)
def test_one_answer_of_every_kind(kitchen, case):
    kitchen.say(1, boxes(*CASES[case]))
    assert kitchen.kinds() == [case.partition(",")[0]]


def test_every_kind_has_a_case():
    assert {case.partition(",")[0] for case in CASES} == set(KINDS)


def test_order_and_index_are_those_of_the_results(kitchen):
    for case in CASES.values():
        kitchen.say(1, boxes(*case))
    results, expressions = kitchen.answered()
    found = error_kinds(results, expressions)
    assert found.index.equals(results.index) and found.name == "error"
    assert found.iloc[::-1].tolist() == [case.partition(",")[0] for case in CASES]
    again = error_kinds(results.iloc[3:7], expressions.sample(frac=1, random_state=0))
    pd.testing.assert_series_equal(again, found.iloc[3:7])


def test_several_targets_make_one_truth_and_compete_with_nobody(kitchen):
    pair = [1, 3]  # the cup and the plate; the spoon on it is not meant
    for marked in ([CUP, PLATE], [CUP], [SPOON], [OTHER], [CUP, OTHER, SPOON, PLATE]):
        kitchen.say(pair, boxes(*marked))
    assert kitchen.kinds() == ["right", "part", "wrong_category", "wrong_instance", "right"]


def test_where_nothing_is_meant_nothing_is_right(kitchen):
    for marked in ([], [CUP], [CUP, OTHER, (30, 10, 34, 30)], [(80, 0, 100, 40)]):
        kitchen.say([-1], boxes(*marked))
    expected = ["right", "wrong_category", "merged", "background"]
    assert kitchen.kinds() == kitchen.kinds(protocol="gres") == expected


def test_a_picture_of_nothing(kitchen):
    kitchen.say([-1], boxes(CUP), image=8)
    kitchen.say([-1], boxes(), image=8)
    assert kitchen.kinds() == ["background", "right"]


def test_right_is_what_the_protocol_counts(kitchen):
    kitchen.say(1, boxes((10, 10, 30, 20)))  # IoU 0.5
    assert (kitchen.kinds(), kitchen.kinds(protocol="cris")) == (["right"], ["part"])


def test_objects_without_a_pixel_are_passed_over(kitchen):
    kitchen.annotations += [
        {"id": 90, "image_id": 7, "category_id": 3, "segmentation": [[1, 1, 2, 2]]},
        {"id": 91, "image_id": 7, "category_id": 3},
    ]
    kitchen.say(1, boxes(OTHER))
    assert kitchen.kinds() == ["wrong_instance"]


def test_what_is_missing_is_named(kitchen):
    kitchen.say(1, boxes(CUP))
    results, expressions = kitchen.answered()
    with pytest.raises(ValueError, match=r"lack 1 sent_ids of the results, first \[5\]"):
        error_kinds(results.assign(sent_id=5), expressions)
    (kitchen.folder / "instances.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"instances.json does not exist; data/README.md"):
        error_kinds(results, expressions)


def test_instances_come_by_picture_whatever_the_files(kitchen, tmp_path):
    kitchen.say(1, boxes(CUP))
    table = kitchen.write().read()
    found = read_instances(table.assign(image_id=[7]))
    assert [thing["id"] for thing in found[7]] == [1, 2, 3, 4, 5] and found[7][4]["iscrowd"] == 1
    folder = tmp_path / "coco"
    folder.mkdir()
    parts = json.loads((kitchen.folder / "instances.json").read_text())
    parts["annotations"] = [{**thing, "expression": "it"} for thing in parts["annotations"][:2]]
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(parts))
        parts["annotations"].pop()
    table = read_refer(tmp_path, "coco", "coco")
    assert [thing["id"] for thing in read_instances(table)[7]] == [1, 2]


def by_hand(prediction, truth, others, same, rule_right) -> str:
    """The rule again, object by object on bool masks."""
    if not prediction.any():
        return "empty"
    if rule_right:
        return "right"
    everything = [truth, *others]
    iou = [(prediction & m).sum() / (prediction | m).sum() for m in everything]
    covered = [(prediction & m).sum() >= max(m.sum() / 2, prediction.sum() / 10) for m in everything]
    if sum(covered) >= 2 and (covered[0] or max(iou) < 0.5):
        return "merged"
    if not any(covered) and (prediction & np.any(everything, 0)).sum() < prediction.sum() / 2:
        return "background"
    best = int(np.argmax(iou))
    if best == 0:
        return "part" if (truth & ~prediction).sum() > (prediction & ~truth).sum() else "too_much"
    return "wrong_instance" if same[best - 1] else "wrong_category"


def test_the_rule_by_hand_on_random_answers():
    """RefShapes' mini set, answers of random boxes and of grown, shifted and joined objects."""
    table = read_refer(ASSETS, cache=False)
    instances, rng = read_instances(table), np.random.default_rng(0)
    results, expected = baseline_table("random", table), []
    for row, truth in enumerate(table.itertuples()):
        things = instances[truth.image_id]
        masks = {thing["id"]: coco.decode(thing["segmentation"]).astype(bool) for thing in things}
        first, second = (masks[thing["id"]] for thing in rng.choice(things, 2))
        size = rng.integers(4, 60, 2)
        box = np.zeros((96, 96), bool)
        box[: size[0], : size[1]] = True
        box = np.roll(box, rng.integers(0, 96, 2), (0, 1))
        prediction = [box, first & box, first | second, first | box, np.roll(first, rng.integers(0, 20), 0)][row % 5]
        goal = masks.pop(truth.ann_id)
        same = [thing["category_id"] == truth.category_id for thing in things if thing["id"] != truth.ann_id]
        iou = (prediction & goal).sum() / (prediction | goal).sum()
        results.loc[row, ["rle", "iou"]] = rle_encode(prediction), iou
        expected.append(by_hand(prediction, goal, list(masks.values()), same, iou >= 0.5))
    found = error_kinds(results, table)
    assert found.tolist() == expected and set(expected) == set(KINDS)


def test_shares_sum_to_all(kitchen):
    kinds = pd.Series(["right"] * 6 + ["part"] * 3 + ["empty"])
    shares = error_shares(kinds, pd.DataFrame({"image_id": np.arange(10) // 2}), num_draws=500)
    assert shares["value"].to_dict() == {kind: {"right": 60, "part": 30, "empty": 10}.get(kind, 0) for kind in KINDS}
    assert (shares["low"] <= shares["value"]).all() and (shares["value"] <= shares["high"]).all()
    assert (shares["n"] == 10).all() and shares.loc["right", "low"] < 60 < shares.loc["right", "high"]
