"""In which way is an answer wrong? One word for every expression, told from the masks of all objects of its picture.

    results = magnet.evaluate("refshapes-tiny", split="val")
    kinds = error_kinds(results, select_split(read_refer("data"), "val"))
    error_shares(kinds, results)            # percent of each kind, with 95 % intervals over images

The kinds are those that papers of this field speak of in words; the rule is our choice throughout.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from pycocotools import mask as coco

from magnet.data.instances import read_instances, read_targets
from magnet.data.masks import object_rle
from magnet.evaluate import progress_bar
from magnet.metrics import find_protocol
from magnet.workbench.intervals import with_intervals

KINDS = ("right", "wrong_instance", "wrong_category", "background", "merged", "part", "too_much", "empty")
RIGHT = 0.5  # IoU: P@0.5, the field's own line between found and not found
COVERED = 0.5  # share of an object's pixels: from half of it on, a person would say that the mask shows this object
COUNTS = 0.1  # share of the mask's pixels: a tie covered by a mask of its wearer is no second object
ON_OBJECTS = 0.5  # share of the mask's pixels: with fewer on any object, the mask is mostly about none


class Overlaps(NamedTuple):
    """How D predictions of one picture lie on the truth (first column) and on its G objects (the others).

    shared, iou: (D, 1+G), pixels and 0 to 1; area: (D, 1+G), pixels of the truth and of the objects; both shared and
    iou are 0 for objects that the sentence means, since the truth stands for them. predicted, on_objects: (D,), pixels
    of the prediction, and those of them on any object.
    """

    shared: np.ndarray
    iou: np.ndarray
    area: np.ndarray
    predicted: np.ndarray
    on_objects: np.ndarray


def error_kinds(results: pd.DataFrame, expressions: pd.DataFrame, progress: bool = False) -> pd.Series:
    """One of KINDS for every row of `results`, with its index. The first that holds:

    empty           nothing is marked although something is meant
    right           IoU ≥ 0.5, as P@0.5 counts it under the results' protocol; or nothing is marked and nothing is meant
    merged          two or more objects are covered (at least half of it is marked, and that is at least a tenth of the
                    mask), and the truth is one of them, or none has an IoU ≥ 0.5 with the mask
    background      none is covered, and less than half of the mask lies on objects
    part, too_much  of all objects the truth has the largest IoU with the mask; it misses more pixels than it adds
                    (part), or not (too_much)
    wrong_instance  another object has it, of a category that the sentence means
    wrong_category  it is of another category, or nothing is meant

    So every row has one kind. Truth and objects are compared at the image's own size. Several targets (gRefCOCO) make
    one truth. To lie inside a crowd (iscrowd) counts as an IoU of 1 with it, as in COCO. Competitors are taken whole,
    without the holes that overlapping polygons make in the tool's truth.

    Args: results: of `evaluate` or `score`; expressions: of `read_refer`, with at least their sent_ids.
    Raises ValueError for sent_ids that `expressions` lacks, FileNotFoundError where instances.json is gone.
    """
    truths, protocol = truths_of(results, expressions), find_protocol(results.attrs.get("protocol", "original"))
    instances, targets = read_instances(truths), read_targets(truths)
    is_right = protocol.hits(results["iou"], RIGHT)
    answers, truth = (_rles(rles, truths) for rles in (results["rle"], truths["rle"]))
    kinds = np.empty(len(results), object)
    pictures = truths.groupby("image_id").indices
    for image_id, rows in progress_bar(progress, iterable=pictures.items(), unit="picture", desc="error kinds"):
        masks, meant = object_masks(instances[image_id], *truth[rows[0]]["size"]), [targets[row] for row in rows]
        found = _overlaps([answers[row] for row in rows], [truth[row] for row in rows], masks, meant)
        kinds[rows] = _decide(found, is_right[rows], _same_category(instances[image_id], masks, meant))
    return pd.Series(kinds, results.index, name="error")


def error_shares(kinds: pd.Series, results: pd.DataFrame, num_draws: int = 10_000) -> pd.DataFrame:
    """Percent of each of KINDS among `results`, with its 95 % interval: value, low, high, n (expressions)."""
    one = np.ones(len(kinds))
    return with_intervals({kind: (kinds == kind, one) for kind in KINDS}, results["image_id"], num_draws)


def truths_of(results: pd.DataFrame, expressions: pd.DataFrame) -> pd.DataFrame:
    """The rows of `expressions` in the order of `results`, with their attrs."""
    position = pd.Index(expressions["sent_id"]).get_indexer(results["sent_id"])
    if missing := results["sent_id"][position < 0].tolist():
        raise ValueError(f"the expressions lack {len(missing)} sent_ids of the results, first {missing[:5]}")
    return expressions.iloc[position]


def _rles(counts: pd.Series, truths: pd.DataFrame) -> list[dict]:
    sizes = truths[["height", "width"]].to_numpy().tolist()
    return [{"size": size, "counts": one} for size, one in zip(sizes, counts)]


def object_masks(things: list[dict], height: int, width: int) -> dict[int, dict]:
    """Annotation id -> RLE, with iscrowd, of those that have a pixel: no answer can lie on the others."""
    masks = {}
    for thing in things:
        try:
            rle, _ = object_rle(thing.get("segmentation", []), height, width, "union")
        except ValueError:
            continue
        masks[thing["id"]] = rle | {"iscrowd": thing.get("iscrowd", 0)}
    return masks


def _same_category(things: list[dict], masks: dict[int, dict], targets: list[list[int]]) -> np.ndarray:
    """(D,G): is the object of a category that the sentence means?"""
    category = {thing["id"]: thing["category_id"] for thing in things}
    meant = [{category[one] for one in ids} for ids in targets]
    return np.array([[category[one] in wanted for one in masks] for wanted in meant], bool).reshape(len(targets), -1)


def _overlaps(
    predictions: list[dict], truths: list[dict], masks: dict[int, dict], targets: list[list[int]]
) -> Overlaps:
    """From RLEs: D predictions, D truths and the G objects by id; targets: the ids that each truth is made of."""
    things, num = list(masks.values()), len(predictions)
    crowd = [thing["iscrowd"] for thing in things]
    predicted = coco.area(predictions).astype(float)
    own = np.diagonal(coco.iou(predictions, truths, [0] * num))
    iou = np.column_stack([own, np.reshape(coco.iou(predictions, things, crowd), (num, -1))])  # (D,1+G)
    area = np.column_stack([coco.area(truths), np.tile(coco.area(things), (num, 1))]).astype(float)
    either = np.where([False, *crowd], predicted[:, None], (predicted[:, None] + area) / (1 + iou))  # I = IoU · this
    meant = np.array([[False, *(one in ids for one in masks)] for ids in targets])
    shared, iou = (np.where(meant, 0, values) for values in ((iou * either).round(), iou))
    everything = [coco.merge(things)] if things else []
    on_objects = predicted * np.reshape(coco.iou(predictions, everything, [1] * len(everything)), (num, -1)).sum(1)
    return Overlaps(shared, iou, area, predicted, on_objects.round())


def _decide(found: Overlaps, is_right: np.ndarray, same_category: np.ndarray) -> np.ndarray:
    """The rule of `error_kinds`: a kind (D,) for each prediction."""
    shared, iou, area, predicted, on_objects = found
    nothing, covered = predicted == 0, (shared >= COVERED * area) & (shared >= COUNTS * predicted[:, None])
    covered &= area > 0  # there is no half of nothing to be covered
    rows, picked = np.arange(len(iou)), iou.argmax(1)  # the truth stands first and wins ties
    misses, adds = area[:, 0] - shared[:, 0], predicted - shared[:, 0]
    same_category = np.column_stack([np.zeros(len(iou), bool), same_category])
    cases = {
        "empty": nothing & (area[:, 0] > 0),
        "right": is_right | nothing,
        "merged": (covered.sum(1) > 1) & (covered[:, 0] | (iou.max(1) < RIGHT)),
        "background": ~covered.any(1) & (on_objects < ON_OBJECTS * predicted),
        "part": (picked == 0) & (misses > adds),
        "too_much": picked == 0,
        "wrong_instance": same_category[rows, picked],
    }
    return np.select(list(cases.values()), list(cases), "wrong_category")
