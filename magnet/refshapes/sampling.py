"""One scene with everything that belongs to it: what training draws from without end, and what `write` stores."""

from itertools import count
from typing import NamedTuple

import numpy as np

from magnet.refshapes.draw import render
from magnet.refshapes.language import RULES, Expression, expressions
from magnet.refshapes.scene import Scene, draw_scene, stream

_OTHER = {"none": "no_target", "many": "multi_target"}  # answer -> the split whose rules it takes


class Sample(NamedTuple):
    """A picture with its objects and sentences; object k is scene.objects[k], masks[k] and a sentence's target k."""

    scene: Scene
    image: np.ndarray  # (S, S, 3) uint8
    masks: np.ndarray  # (N, S, S) bool, the visible parts
    expressions: list[Expression]


def sample(
    seed: int,
    index: int,
    split: str = "train",
    image_size: int = 96,
    num_expressions: int | None = None,
    kinds: tuple[str, ...] | None = None,
    answer: str = "one",
) -> Sample:
    """Scene `index` of a split, a pure function of its arguments; no two splits share a random number.

    Training scenes are endless: any index below 2^32, six expressions each (rarely fewer, never none);
    `num_expressions` asks for fewer, which is quicker, `kinds` for these kinds alone, `answer` "none" or "many" for
    sentences that mean no object or several. Scenes of the evaluation splits are drawn again until they allow the two
    expressions that the split's rules ask for. Raises ValueError for an unknown split or a number outside 32 bits.
    """
    for attempt in count():
        scene, rules = draw_scene(seed, index, split, attempt), RULES[split]
        if answer != "one":
            rules = RULES[_OTHER[answer]]._replace(num=rules.num, in_turn=False)
        elif kinds is not None:
            rules = rules._replace(kinds={kind: rules.kinds[kind] for kind in kinds})
        num = num_expressions or rules.num
        found = expressions(scene, rules, stream(scene.key, "words"), index, num)
        if len(found) == num or (found and split == "train"):
            return Sample(scene, *render(scene, image_size), found)
