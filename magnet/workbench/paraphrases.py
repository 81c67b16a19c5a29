"""Say the same thing in other words: does the mask stay where it is?

    asked = paraphrases("val")                    # "the disc on the left", "left circle", "circle on the left side"
    answers = asked.join(ask_about_scenes(magnet.load("refshapes-tiny"), asked))
    summarize_paraphrases(answers)                # agreement in percent, with 95 % intervals over scenes

    said = in_common_words("testR")               # "the verdant sickle", "the green crescent"
    summarize_wordings(ask_wordings(magnet.load("refshapes-tiny"), said))      # what the rare words cost

Agreement is no accuracy: who always marks the same wrong object agrees with himself. Our choice throughout.
"""

import itertools

import numpy as np
import pandas as pd
from pycocotools import mask as coco

from magnet.predictor import Predictor
from magnet.refshapes import SPLITS
from magnet.refshapes.words import Voice, sentence
from magnet.workbench.intervals import with_intervals
from magnet.workbench.scene_questions import SCENE, ask_about_scenes, scene_ids, things_said

CLOSE = 0.8  # IoU from which on two masks are the same object with another edge
MEANING = [*SCENE, "program"]  # the columns whose equal rows mean the same
_VOICES = 20  # speakers listened to for so many ways to say it; a plain noun phrase has few


def paraphrases(split: str = "val", num_scenes: int = 252, num_forms: int = 4, seed: int = 0) -> pd.DataFrame:
    """Up to `num_forms` ways, at least two, to say each expression of the scenes, one row each.

    All are the generator's own surface forms of one program, by speakers with common words only: they differ in
    synonyms, in word order and in whether there is an article. Ambiguous sentences are left out, since another form can
    suggest another reading. `seed` 0 and the split's own number of scenes are those of RefShapes small.
    Columns: split, seed, scene, kind, program (JSON), target (an object's number in the scene), text.
    Raises ValueError for a split that does not exist or whose sentences do not mean one object.
    """
    rows = []
    for scene in range(num_scenes):
        _, said = things_said(split, seed, scene)
        rng = np.random.default_rng([seed, SPLITS.index(split), scene])
        for program, one in said.items():
            meaning = {"split": split, "seed": seed, "scene": scene, "kind": one.kind}
            meaning |= {"program": program, "target": one.target}
            forms = [] if one.ambiguous else _forms(one.program, num_forms, rng)
            rows += [meaning | {"text": text} for text in forms if len(forms) > 1]
    return pd.DataFrame(rows)


def _forms(program: list, num_forms: int, rng: np.random.Generator) -> list[str]:
    texts = dict.fromkeys(sentence(program, Voice(rng, rare_share=0)) for _ in range(_VOICES))
    return list(texts)[:num_forms]


def agreement(answers: pd.DataFrame) -> pd.DataFrame:
    """One row for each thing said: split, seed, scene, kind, num_forms, and of its answers

    mean_iou, close: the mean IoU of two of them, and the share of pairs with an IoU ≥ 0.8, both 0 to 1 (two empty masks
    agree); all_right, all_wrong (bool): each picks the right object, or none does.
    answers: `paraphrases` joined with what `ask_about_scenes` gave.
    """
    rows = []
    for _, part in answers.groupby(MEANING, sort=False):
        iou, first = _pairwise_iou(part), part.iloc[0]
        measured = {"num_forms": len(part), "mean_iou": iou.mean(), "close": (iou >= CLOSE).mean()}
        right = {"all_right": part["right"].all(), "all_wrong": not part["right"].any()}
        rows.append(first[[*SCENE, "kind"]].to_dict() | measured | right)
    return pd.DataFrame(rows)


def _pairwise_iou(answers: pd.DataFrame) -> np.ndarray:
    """IoU (P,) of every pair of masks; 1 where both are empty."""
    masks = [{"size": [size, size], "counts": rle} for rle, size in zip(answers["rle"], answers["image_size"])]
    iou, empty = coco.iou(masks, masks, [0] * len(masks)), coco.area(masks) == 0
    pairs = itertools.combinations(range(len(masks)), 2)
    return np.array([1.0 if empty[i] and empty[j] else iou[i, j] for i, j in pairs])


def summarize_paraphrases(answers: pd.DataFrame, num_draws: int = 10_000) -> pd.DataFrame:
    """Percent, with 95 % intervals over scenes: value, low, high, n (things said, each counted once).

    Rows: mean_iou, close, all_right and all_wrong as in `agreement`, and mixed: some forms find the object and some do
    not, so the answer hangs on the words.
    """
    table = agreement(answers)
    table["mixed"] = ~(table["all_right"] | table["all_wrong"])
    measures = ("mean_iou", "close", "all_right", "all_wrong", "mixed")
    return with_intervals({name: (table[name], np.ones(len(table))) for name in measures}, scene_ids(table), num_draws)


def in_common_words(split: str = "testR", num_scenes: int = 240, seed: int = 0) -> pd.DataFrame:
    """Every expression of the scenes as RefShapes has it (text) and said anew in common words (common), one row each.

    Columns: split, seed, scene, kind, target (an object's number in the scene), text, common. `seed` 0 and the split's
    own number of scenes are those of RefShapes small. Raises ValueError as `paraphrases` does.
    """
    rows = []
    for scene in range(num_scenes):
        rng = np.random.default_rng([seed, SPLITS.index(split), scene])
        for one in things_said(split, seed, scene)[1].values():
            meaning = {"split": split, "seed": seed, "scene": scene, "kind": one.kind, "target": one.target}
            rows.append(meaning | {"text": one.text, "common": sentence(one.program, Voice(rng, rare_share=0))})
    return pd.DataFrame(rows)


def ask_wordings(predictor: Predictor, said: pd.DataFrame, progress: bool = True) -> pd.DataFrame:
    """`in_common_words` with the answers: right, common_right (bool: the object marked is the one meant)."""
    right = ask_about_scenes(predictor, said, progress)["right"]
    common = ask_about_scenes(predictor, said.assign(text=said["common"]), progress)["right"]
    return said.assign(right=right, common_right=common)


def summarize_wordings(answers: pd.DataFrame, num_draws: int = 10_000) -> pd.DataFrame:
    """Percent right "as it stands" and "in common words", and their "difference" (points, paired), with 95 % intervals
    over scenes: value, low, high, n (sentences)."""
    own, common = answers["right"].to_numpy(float), answers["common_right"].to_numpy(float)
    every = np.ones(len(answers))
    rows = {"as it stands": (own, every), "in common words": (common, every), "difference": (common - own, every)}
    return with_intervals(rows, scene_ids(answers), num_draws)
