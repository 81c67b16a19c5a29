"""Change one attribute word, and another object is meant: does the mask move to it?

    pairs = swaps("val")                          # "the red star" -> "the blue star", where there is one of each
    answers = ask_swaps(magnet.load("refshapes-tiny"), pairs)
    summarize_swaps(answers)                      # percent right, with 95 % intervals over scenes

A network that found the object by what else the sentence says, or by what is usually meant, stays where it was. What
the changed sentence means is computed, never guessed: its program is run on the scene. Our choice throughout; the idea
of minimal changes that flip the answer is that of contrast sets (Gardner et al., 2020).
"""

import json
from typing import NamedTuple

import numpy as np
import pandas as pd

from magnet.predictor import Predictor
from magnet.refshapes import SPLITS, Expression
from magnet.refshapes.programs import Facts, execute, head, sole
from magnet.refshapes.scene import COLOURS, SHAPES, TEXTURES
from magnet.refshapes.words import Voice, sentence
from magnet.workbench.intervals import with_intervals
from magnet.workbench.scene_questions import ask_about_scenes, scene_ids, things_said

ATTRIBUTES = {"colour": tuple(COLOURS), "shape": SHAPES, "texture": TEXTURES, "size": ("small", "large")}
# A changed sentence of the other kinds may say more than its program: "larger than the ring" speaks of one ring, and
# of two hops or an ambiguous sentence the other reading may come to mean an object as well.
KINDS = ("attribute", "location", "superlative", "ordinal", "relation", "negation")
SHOWN = ("new_right", "right", "both", "stayed")
_VOICES = 8  # speakers tried for two sentences that differ in one word; some say "bright red"


class Change(NamedTuple):
    """One value of an attribute for another, the program that comes out, and the one object it describes."""

    attribute: str
    old: str
    new: str
    program: list
    target: int


def swaps(split: str = "val", num_scenes: int = 252, seed: int = 0) -> pd.DataFrame:
    """Pairs of sentences about one scene that differ in one attribute word and mean two objects, one row each.

    For every program of the scenes' expressions and every attribute it names (in the head phrase or in that of another
    object), one change, drawn at random among those after which the program describes exactly one object beyond doubt,
    not the one before. As the generator has it, what follows a head phrase must single out one of several, and by a
    relation to things that the phrase does not fit. Both sentences are said anew by one speaker, in common words, so a
    synonym is no change and never the only difference.
    `seed` 0 and the split's own number of scenes are those of RefShapes small; larger numbers go on where it ends.

    Columns: split, seed, scene, kind, attribute, old, new (values), word, new_word (how they are said), text, target,
    new_text, new_target (objects' numbers in the scene), program, new_program (JSON).
    Raises ValueError for a split that does not exist or whose sentences do not mean one object.
    """
    rows = []
    for number in range(num_scenes):
        scene, said = things_said(split, seed, number)
        facts, rng = Facts(scene), np.random.default_rng([seed, SPLITS.index(split), number])
        for one in said.values():
            where = {"split": split, "seed": seed, "scene": number, "kind": one.kind}
            rows += [where | pair for pair in _pairs(one, facts, rng)]
    return pd.DataFrame(rows)


def _pairs(one: Expression, facts: Facts, rng: np.random.Generator) -> list[dict]:
    if one.kind not in KINDS:
        return []
    pairs = []
    for attribute, values in ATTRIBUTES.items():
        changes = _changes(one, attribute, values, facts)
        if changes:
            change = changes[rng.integers(len(changes))]
            pairs += _said(one, change, rng)
    return pairs


def _changes(one: Expression, attribute: str, values: tuple[str, ...], facts: Facts) -> list[Change]:
    """All changes of one attribute that make the program describe another object."""
    found = []
    for old in values:
        for new in values:
            program = _replaced(one.program, old, new)
            if program != one.program and _is_natural(program, facts):
                target = sole(program, facts)
                if target not in (None, one.target):
                    found.append(Change(attribute, old, new, program, target))
    return found


def _replaced(program: list | dict | str, old: str, new: str):
    """The program with one value for another wherever it stands; what is said twice differs in two words later on."""
    if isinstance(program, dict):
        return {name: new if value == old else value for name, value in program.items()}
    return [_replaced(part, old, new) if isinstance(part, list | dict) else part for part in program]


def _is_natural(program: list, facts: Facts) -> bool:
    """What the generator asks of its own: what follows the head phrase, if anything, singles out one of several, and
    they are related to things of another kind."""
    fits = execute(head(program), facts)
    if program[0] == "relation" and fits & execute(program[-1], facts):
        return False
    return program[0] == "objects" or fits.bit_count() > 1


def _said(one: Expression, change: Change, rng: np.random.Generator) -> list[dict]:
    """The pair as a row, in the first voice whose two sentences differ in one word; none where no voice does."""
    for _ in range(_VOICES):
        voice = Voice(rng, rare_share=0)
        texts = [sentence(program, voice) for program in (one.program, change.program)]
        words = [text.split() for text in texts]
        differ = [pair for pair in zip(*words) if pair[0] != pair[1]]
        if len(differ) == 1 and len(words[0]) == len(words[1]):
            values = {"attribute": change.attribute, "old": change.old, "new": change.new}
            said = {"word": differ[0][0], "new_word": differ[0][1], "text": texts[0], "new_text": texts[1]}
            meant = {"target": one.target, "new_target": change.target}
            programs = {"program": json.dumps(one.program), "new_program": json.dumps(change.program)}
            return [values | said | meant | programs]
    return []


def ask_swaps(predictor: Predictor, pairs: pd.DataFrame, progress: bool = True) -> pd.DataFrame:
    """The pairs with the answers to both sentences, as `ask_about_scenes` gives them: rle, iou, picked and right, and
    new_rle, new_iou, new_picked and new_right; and stayed (bool): the changed sentence still picks what was meant
    before."""
    changed = pairs.assign(text=pairs["new_text"], target=pairs["new_target"])
    answers = ask_about_scenes(predictor, pd.concat([pairs, changed], ignore_index=True), progress)
    before, after = (part.set_axis(pairs.index) for part in (answers[: len(pairs)], answers[len(pairs) :]))
    table = pairs.join(before).join(after.drop(columns="image_size").add_prefix("new_"))
    return table.assign(stayed=table["new_picked"] == table["target"])


def summarize_swaps(answers: pd.DataFrame, by: str = "attribute", num_draws: int = 10_000) -> pd.DataFrame:
    """Percent of pairs, all and in groups by a column, with 95 % intervals over scenes: value, low, high, n (pairs).

    Rows (of which pairs, what): "new_right": the changed sentence picks the right object; "right": the first one does;
    "both": the mask was right and moved to the right object; "stayed": it did not move although it should.
    """
    answers = answers.assign(both=answers["right"] & answers["new_right"])
    parts = {"all": answers} | dict(list(answers.groupby(by)))
    rows = {
        name: with_intervals({what: (part[what], np.ones(len(part))) for what in SHOWN}, scene_ids(part), num_draws)
        for name, part in parts.items()
    }
    return pd.concat(rows, names=["pairs", "what"])
