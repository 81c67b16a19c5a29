"""What stands beside every model on RefShapes: two guesses, one oracle, and two models that are blind to word order.

    table = baseline_table("head_phrase", select_split(read_refer("data"), "testB"))
    magnet.summarize(table)

`random` picks any object, `largest` the largest, `head_phrase` any object that fits the head phrase ("the star" of "the
star left of the ring"). `no_text` and `bag_of_words` are networks trained with DataConfig.words "none" and "bag" for as
long as the demo's, once per version of the generator; their results ship with the package.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from pycocotools import mask as coco

from magnet.data.instances import read_instances
from magnet.refshapes.programs import head
from magnet.refshapes.scene import SHAPES

GUESSES = ("random", "largest", "head_phrase")
TRAINED = ("no_text", "bag_of_words")
BASELINES = GUESSES + TRAINED
RESULTS = Path(__file__).parents[1] / "assets" / "refshapes_baselines"


def baseline_table(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Results of a baseline on the expressions of `table` (what read_refer gives, any rows of RefShapes).

    Columns: sent_id, ref_id, image_id, I, U (pixels), iou (0-1), rle (the prediction), picked_right (bool: the
    instance that it overlaps most is the one meant), then the table's other columns. Guesses depend on the sent_id
    alone. Raises ValueError for an unknown name or a table without programs, FileNotFoundError where the results of a
    trained baseline are not shipped for a split.
    """
    if name not in BASELINES:
        raise ValueError(f"no baseline {name!r}; there are {', '.join(BASELINES)}")
    if "program" not in table:
        raise ValueError(f"the table of {table.attrs.get('name')!r} has no programs: baselines are for RefShapes only")
    instances = read_instances(table)
    scores = _trained(name, table) if name in TRAINED else _guesses(name, table, instances)
    tags = table.drop(columns=["rle", *(column for column in scores if column in table)], errors="ignore")
    result = scores.join(tags.set_axis(scores.index)).assign(iou=scores["I"] / scores["U"])
    return result.assign(picked_right=picked_right(result, table, instances))


def available(splits: tuple[str, ...]) -> tuple[str, ...]:
    """The baselines to be had for all these splits: the guesses, and the trained ones whose results are shipped."""
    shipped = [name for name in TRAINED if all((RESULTS / f"{name}-{split}.parquet").exists() for split in splits)]
    return (*GUESSES, *shipped)


def picked_right(results: pd.DataFrame, table: pd.DataFrame, instances: dict[int, list[dict]] | None = None):
    """For any results table with predictions (`rle`): is the instance it overlaps most the one meant? (N,) bool.

    `table` has the same expressions in the same order; an empty prediction picks none.
    """
    instances = read_instances(table) if instances is None else instances
    sizes = table[["height", "width"]].to_numpy().tolist()
    return np.array(
        [
            picked_instance({"size": size, "counts": rle}, instances[image_id]) == ann_id
            for rle, size, image_id, ann_id in zip(results["rle"], sizes, table["image_id"], table["ann_id"])
        ],
        bool,
    )


def picked_instance(prediction: dict, things: list[dict]) -> int | None:
    """The annotation id of the instance with the largest IoU with a predicted mask (COCO RLE); None if all are 0."""
    overlap = coco.iou([prediction], [thing["segmentation"] for thing in things], [0] * len(things))[0]
    return things[int(overlap.argmax())]["id"] if overlap.any() else None


def _guesses(name: str, table: pd.DataFrame, instances: dict[int, list[dict]]) -> pd.DataFrame:
    rows = []
    for row in table[["sent_id", "ref_id", "image_id", "ann_id", "program", "area"]].itertuples(index=False):
        candidates = _CANDIDATES[name](instances[row.image_id], row.program)
        guess = candidates[np.random.default_rng([1, row.sent_id]).integers(len(candidates))]
        same = guess["id"] == row.ann_id  # visible parts never overlap
        union = row.area if same else row.area + guess["area"]
        rle = guess["segmentation"]["counts"]
        rows.append((row.sent_id, row.ref_id, row.image_id, row.area if same else 0, union, rle))
    return pd.DataFrame(rows, columns=["sent_id", "ref_id", "image_id", "I", "U", "rle"])


def _fitting_head(things: list[dict], program: str) -> list[dict]:
    wanted = head(json.loads(program))[1]
    return [
        thing
        for thing in things
        if all({**thing["attributes"], "shape": SHAPES[thing["category_id"] - 1]}[k] == v for k, v in wanted.items())
    ]


_CANDIDATES: dict[str, Callable[[list[dict], str], list[dict]]] = {
    "random": lambda things, program: things,
    "largest": lambda things, program: [max(things, key=lambda thing: thing["area"])],
    "head_phrase": _fitting_head,
}


def _trained(name: str, table: pd.DataFrame) -> pd.DataFrame:
    parts = []
    for split in table["split"].unique():
        path = RESULTS / f"{name}-{split}.parquet"
        if not path.exists():
            words = "none" if name == "no_text" else "bag"
            raise FileNotFoundError(
                f"{path} is not shipped with this version: train with data.words={words!r} and keep the results table "
                f"there, or choose among {', '.join(GUESSES)}"
            )
        parts.append(pd.read_parquet(path, columns=["sent_id", "ref_id", "image_id", "I", "U", "rle"]))
    shipped = pd.concat(parts).set_index("sent_id")
    missing = table.loc[~table["sent_id"].isin(shipped.index), "sent_id"]
    if len(missing):
        raise ValueError(
            f"{RESULTS}/{name}-*.parquet knows nothing of sent_id {missing.iloc[0]} and {len(missing) - 1} more: "
            f'it belongs to write_refshapes(root, "small") with seed 0'
        )
    return shipped.loc[table["sent_id"]].reset_index()
