"""RefShapes: scenes of coloured shapes with referring expressions whose answers are computed, never guessed.

    from magnet import refshapes
    drawn = refshapes.sample(seed=0, index=7, image_size=96)  # drawn.image, drawn.masks, drawn.expressions

Needs numpy alone; `write` stores whole sets as REFER files, `baselines` scores what no model should lose to.
"""

from itertools import count
from typing import NamedTuple

import numpy as np

from magnet.refshapes.draw import render
from magnet.refshapes.language import RULES, Expression, expressions
from magnet.refshapes.scene import SPLITS, VERSION, Scene, draw_scene, stream

__all__ = ["SPLITS", "VERSION", "Sample", "sample"]


class Sample(NamedTuple):
    """A picture with its objects and sentences; object k is masks[k] and, in expressions, target k."""

    scene: Scene
    image: np.ndarray  # (S, S, 3) uint8
    masks: np.ndarray  # (N, S, S) bool, the visible parts
    expressions: list[Expression]


def sample(seed: int, index: int, split: str = "train", image_size: int = 96) -> Sample:
    """Scene `index` of a split, a pure function of its arguments; splits never share a random number.

    Training scenes are endless: any index below 2^32, six expressions each (rarely fewer, never none). Scenes of the
    evaluation splits are drawn again until they allow exactly the two expressions that the split's rules ask for.
    Raises ValueError for an unknown split or a number outside 32 bits.
    """
    for attempt in count():
        scene = draw_scene(seed, index, split, attempt)
        rules = RULES[split]
        found = expressions(scene, rules, stream(scene.key, "words"), index)
        if len(found) == rules.num or (found and split == "train"):
            return Sample(scene, *render(scene, image_size), found)
