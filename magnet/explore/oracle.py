"""The oracle ladder: how far would one get knowing only this much? Between its rungs lies what a network lacks.

    results = magnet.evaluate("refshapes-tiny", split="testB")
    oracle_ladder(results, select_split(read_refer("data"), "testB"))     # with 95 % intervals over images
    magnet.compare(oracle_tables(results, expressions)["best instance"], results)       # what exact outlines would add

    centre          a box of half the picture's height and width in its middle: neither words nor pixels
    no text         a network trained without words
    category        any object of the category that is meant, drawn by the sent_id: what the noun alone would give
    largest         the largest of them
    network         the results themselves
    best instance   of all true masks the one that the network's mask overlaps most: the outline is perfect, the choice
                    the network's own

All true masks are used, so only `centre`, `no text` and `network` are answers that one could give. Our choice
throughout.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from pycocotools import mask as coco

from magnet.data.instances import read_instances, read_targets
from magnet.metrics import find_protocol, rle_encode, rle_intersection_union
from magnet.refshapes.baselines import available, baseline_table
from magnet.statistics import summarize
from magnet.workbench.errors import object_masks, truths_of


class Choice(NamedTuple):
    """One sentence: the network's mask, the truth, and the true masks to choose from (COCO RLE), the truth first.

    same: those of the category that is meant. Both lists are empty of the truth where nothing is meant.
    """

    sent_id: int
    prediction: dict
    truth: dict
    objects: list[dict]
    same: list[dict]


def oracle_ladder(
    results: pd.DataFrame, expressions: pd.DataFrame, no_text: pd.DataFrame | None = None, num_draws: int = 10_000
) -> pd.DataFrame:
    """One row for each rung, the columns of `summarize`: oIoU, mIoU and P@X in percent, with _low and _high, and n.

    Args and errors: as of `oracle_tables`.
    """
    tables = oracle_tables(results, expressions, no_text)
    return pd.DataFrame({rung: summarize(table, num_draws=num_draws) for rung, table in tables.items()}).T


def oracle_tables(
    results: pd.DataFrame, expressions: pd.DataFrame, no_text: pd.DataFrame | None = None
) -> dict[str, pd.DataFrame]:
    """A results table for each rung, at the pictures' own size, with the rows of `results` and its protocol's rules.

    Args: results: of `evaluate` or `score`; expressions: of `read_refer`, with at least their sent_ids; no_text:
        results of a network trained with DataConfig.words "none" on the same expressions. Without, RefShapes' own are
        taken where they are shipped, else the rung is left out.
    Raises ValueError for sent_ids that `expressions` lacks, FileNotFoundError where instances.json is gone.
    """
    truths = truths_of(results, expressions)
    choices = _choices(results, truths)
    tables = {rung: _scored(results, choices, guess) for rung, guess in RUNGS.items()}
    no_text = _shipped(truths) if no_text is None else no_text
    between = {"network": results} if no_text is None else {"no text": no_text, "network": results}
    order = ["centre", "no text", "category", "largest", "network", "best instance"]
    return {rung: (tables | between)[rung] for rung in order if rung in tables | between}


def _shipped(truths: pd.DataFrame) -> pd.DataFrame | None:
    if "program" not in truths or "no_text" not in available(tuple(truths["split"].unique())):
        return None
    try:
        return baseline_table("no_text", truths)
    except ValueError:  # RefShapes of another seed or size
        return None


def _choices(results: pd.DataFrame, truths: pd.DataFrame) -> list[Choice]:
    instances, targets = read_instances(truths), read_targets(truths)
    pictures = truths.drop_duplicates("image_id")[["image_id", "height", "width"]].itertuples(index=False, name=None)
    masks = {image_id: object_masks(instances[image_id], *size) for image_id, *size in pictures}
    rows = truths[["sent_id", "image_id", "height", "width", "rle"]].itertuples(index=False)
    found = []
    for row, prediction, meant in zip(rows, results["rle"], targets):
        size = [row.height, row.width]
        truth = {"size": size, "counts": row.rle}
        objects, same = _objects(instances[row.image_id], masks[row.image_id], truth, meant)
        found.append(Choice(row.sent_id, {"size": size, "counts": prediction}, truth, objects, same))
    return found


def _objects(
    things: list[dict], masks: dict[int, dict], truth: dict, meant: list[int]
) -> tuple[list[dict], list[dict]]:
    """All true masks and those of the category meant; the truth stands for what it is made of, crowds are no object."""
    category = {thing["id"]: thing["category_id"] for thing in things}
    wanted = {category[one] for one in meant}
    others = [one for one, mask in masks.items() if one not in meant and not mask["iscrowd"]]
    first = [truth] if meant else []
    objects = first + [masks[one] for one in others]
    return objects, first + [masks[one] for one in others if category[one] in wanted]


def _scored(results: pd.DataFrame, choices: list[Choice], guess: Callable[[Choice], dict | None]) -> pd.DataFrame:
    rows = []
    for choice in choices:
        height, width = choice.truth["size"]
        rle = (guess(choice) or _box(height, width, 0))["counts"]
        rle = rle.decode("ascii") if isinstance(rle, bytes) else rle
        rows.append((*rle_intersection_union(rle, choice.truth["counts"], height, width), rle))
    scores = pd.DataFrame(rows, results.index, ["I", "U", "rle"])
    protocol = find_protocol(results.attrs.get("protocol", "original"))
    iou = protocol.iou(scores["I"].to_numpy(), scores["U"].to_numpy())
    return results.assign(I=scores["I"], U=scores["U"], iou=iou, rle=scores["rle"])


def _box(height: int, width: int, share: float = 0.5) -> dict:
    """RLE of a box in the middle with that share of each side."""
    mask = np.zeros((height, width), bool)
    top, left = round(height * (1 - share) / 2), round(width * (1 - share) / 2)
    mask[top : height - top, left : width - left] = share > 0
    return {"size": [height, width], "counts": rle_encode(mask)}


def _centre(choice: Choice) -> dict:
    return _box(*choice.truth["size"])


def _any_of_category(choice: Choice) -> dict | None:
    number = np.random.default_rng([1, choice.sent_id]).integers(max(1, len(choice.same)))  # as baselines.py draws
    return choice.same[number] if choice.same else None


def _largest_of_category(choice: Choice) -> dict | None:
    return max(choice.same, key=coco.area, default=None)


def _best_instance(choice: Choice) -> dict | None:
    """None where the network's mask lies on no object."""
    if not choice.objects:
        return None
    overlap = coco.iou([choice.prediction], choice.objects, [0] * len(choice.objects))[0]
    return choice.objects[overlap.argmax()] if overlap.any() else None


RUNGS = {
    "centre": _centre, "category": _any_of_category, "largest": _largest_of_category, "best instance": _best_instance,
}  # fmt: skip
