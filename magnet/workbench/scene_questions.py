"""Sentences of one's own about RefShapes scenes: what does a predictor mark, and which object is that?"""

import json

import numpy as np
import pandas as pd
from pycocotools import mask as coco

from magnet.evaluate import progress_bar
from magnet.metrics import rle_encode
from magnet.predictor import Predictor
from magnet.refshapes import sample
from magnet.refshapes.baselines import picked_instance
from magnet.refshapes.language import RULES, Expression
from magnet.refshapes.scene import Scene

SCENE = ["split", "seed", "scene"]  # the columns that name a scene; its picture is drawn anew where it is needed
NOTHING = -1  # picked by a mask that lies on no object
_TINY = 8  # pixels of a picture that nobody looks at


def things_said(split: str, seed: int, scene: int) -> tuple[Scene, dict[str, Expression]]:
    """A scene and, by their programs as JSON, the expressions that RefShapes has about it: each meaning once.

    Raises ValueError for a split that does not exist or whose sentences do not mean one object.
    """
    if split in RULES and RULES[split].answer != "one":
        known = ", ".join(name for name, rules in RULES.items() if rules.answer == "one")
        raise ValueError(f"sentences of {split!r} do not mean one object; those of {known} do")
    drawn = sample(seed, scene, split, _TINY)
    return drawn.scene, {json.dumps(one.program): one for one in drawn.expressions}


def ask_about_scenes(predictor: Predictor, questions: pd.DataFrame, progress: bool = True) -> pd.DataFrame:
    """The predictor's answer to every question, with its index.

    Args: questions: columns split, seed, scene (as `refshapes.sample` takes them), text and target (an object's number
        in the scene).
    Returns rle and image_size (the mask; pictures are drawn at the size that the predictor reads), iou (with the
    target's visible part, 0 to 1), picked (the number of the object with which the mask has the largest IoU; -1: none)
    and right (bool: picked is the target).
    """
    size, texts, targets = predictor.data.image_size, questions["text"].tolist(), questions["target"].tolist()
    answers: list[tuple] = [()] * len(questions)
    with progress_bar(progress, total=len(questions), unit="sentence") as bar:
        for (split, seed, scene), rows in questions.groupby(SCENE, sort=False).indices.items():
            drawn = sample(int(seed), int(scene), split, size)
            predictor.set_image(drawn.image)
            objects = [_rle(mask) for mask in drawn.masks]
            for row in rows:
                answers[row] = _answer(_rle(predictor.predict(texts[row])[0]), objects, targets[row])
            bar.update(len(rows))
    table = pd.DataFrame(answers, questions.index, ["rle", "iou", "picked"])
    return table.assign(image_size=size, right=table["picked"] == questions["target"])


def scene_ids(table: pd.DataFrame) -> pd.Series:
    """A number for the scene of each row: what intervals resample."""
    return table.groupby(SCENE).ngroup()


def _rle(mask: np.ndarray) -> dict:
    return {"size": list(mask.shape), "counts": rle_encode(mask)}


def _answer(prediction: dict, objects: list[dict], target: int) -> tuple[str, float, int]:
    picked = picked_instance(prediction, [{"id": k, "segmentation": rle} for k, rle in enumerate(objects)])
    iou = coco.iou([prediction], [objects[target]], [0])[0, 0]
    return prediction["counts"], float(iou), NOTHING if picked is None else picked
