"""Referring expressions for a scene: propose a program, run it, keep it if it picks one object, say it in English."""

from typing import NamedTuple

import numpy as np

from magnet.refshapes.programs import MAYBE, SURE, Facts, execute, head, hops, members, mentions, sole, swap
from magnet.refshapes.proposals import PROPOSERS, Inventory
from magnet.refshapes.scene import HELD_OUT, Scene
from magnet.refshapes.words import RARE_SHARE, Voice, sentence

KINDS = tuple(PROPOSERS["one"])
_KINDS_TRIED = 18  # kinds drawn for a training scene, more than its expressions as some will not be possible
_TRIES = 6  # proposals per expression before its scene counts as unfit for the kind


class Expression(NamedTuple):
    """A sentence with the program it says and the objects it means (indices into the scene)."""

    text: str
    program: list
    kind: str
    targets: tuple[int, ...]
    hops: int
    distractors: int  # other objects that fit the head phrase
    ambiguous: bool
    other_reading: list | None  # of an ambiguous sentence: the program that describes no single object

    @property
    def target(self) -> int:
        """The one object meant; ValueError where there is none or several."""
        (only,) = self.targets
        return only


class Rules(NamedTuple):
    """What a split asks of its expressions."""

    kinds: dict[str, float] = dict.fromkeys(KINDS, 1.0)  # with weights
    num: int = 2  # expressions per scene
    in_turn: bool = True  # scene i has expressions of kind i mod len(kinds) alone; else each draws its own
    paired: bool = False  # only beside the role-swapped twin, with head phrases that fit exactly two
    held_out: bool = False  # only with a (colour, shape) pair that training never shows
    rare: bool = False  # only with a rare word
    answer: str = "one"  # "none", "many"


_TRAIN = dict(zip(KINDS, (0.16, 0.10, 0.09, 0.08, 0.22, 0.11, 0.13, 0.06, 0.05)))
_MIXED = dict.fromkeys(("attribute", "location", "superlative", "relation"), 1.0)
RULES = {
    "train": Rules(_TRAIN, num=6, in_turn=False),
    "val": Rules(),
    "testA": Rules({"attribute": 1.0, "location": 1.0}),
    "testB": Rules({"relation": 1.0, "comparison": 1.0}, paired=True),
    "testC": Rules(_MIXED, held_out=True),
    "testR": Rules(_MIXED, rare=True),
    "no_target": Rules(dict.fromkeys(PROPOSERS["none"], 1.0), answer="none"),
    "multi_target": Rules(dict.fromkeys(PROPOSERS["many"], 1.0), answer="many"),
}


def expressions(scene: Scene, rules: Rules, rng: np.random.Generator, index: int, num: int) -> list[Expression]:
    """Up to `num` expressions for a scene, no two alike; fewer where the scene does not allow them."""
    inventory = Inventory(scene)
    found: dict[str, Expression] = {}
    for kind in _kinds(rules, rng, index):
        for _ in range(_TRIES):
            new = _attempt(kind, inventory, rules, rng)
            if new and not any(one.text in found for one in new):
                found.update((one.text, one) for one in new)
                break
        if len(found) >= num:
            break
    return list(found.values())[:num]


def _kinds(rules: Rules, rng: np.random.Generator, index: int) -> list[str]:
    """The kinds to try, one after the other, until there are enough expressions."""
    names = list(rules.kinds)
    if rules.in_turn:
        return [names[index % len(names)]] * rules.num
    totals = np.cumsum(list(rules.kinds.values()))
    return [names[k] for k in np.searchsorted(totals, rng.random(_KINDS_TRIED) * totals[-1], side="right")]


def _attempt(kind: str, inventory: Inventory, rules: Rules, rng: np.random.Generator) -> list[Expression]:
    """One proposal, with its role-swapped twin where there is one; empty if it will not do."""
    proposal = PROPOSERS[rules.answer][kind](inventory, rng, rules.paired)
    if not proposal:
        return []
    program, other = proposal
    targets = _targets(program, kind, inventory.facts, rules)
    if targets is None or (rules.held_out and not _says_held_out(program)):
        return []
    meanings = [(program, targets)]
    if kind in ("relation", "comparison") and rules.answer == "one":
        meanings += _twin(program, targets, kind, inventory.facts, rules)
    voice = Voice(rng, 0.6 if rules.rare else RARE_SHARE)
    texts = [sentence(meaning, voice, rules.answer == "many") for meaning, _ in meanings]
    if len(meanings) <= rules.paired or voice.rare < rules.rare:
        return []
    return [_expression(text, *meaning, kind, other, inventory.facts) for text, meaning in zip(texts, meanings)]


def _targets(program: list, kind: str, facts: Facts, rules: Rules) -> tuple[int, ...] | None:
    """The objects meant, if their number and that of the distractors are as the rules want; else None."""
    if rules.answer == "none":
        return None if execute(program, facts, MAYBE) else ()
    if rules.answer == "many":
        sure = execute(program, facts, SURE)
        agreed = sure == execute(program, facts, MAYBE) and 2 <= sure.bit_count() < facts.num
        return tuple(members(sure)) if agreed else None
    fitting = execute(head(program), facts).bit_count()
    if kind != "attribute" and (fitting < 2 or (rules.paired and fitting != 2)):
        return None
    only = sole(program, facts)
    return None if only is None else (only,)


def _twin(program: list, targets: tuple[int, ...], kind: str, facts: Facts, rules: Rules) -> list[tuple]:
    """[(the program with its roles swapped, what that means)], if it means another single object."""
    swapped = swap(program)
    goal = _targets(swapped, kind, facts, rules)
    return [] if goal is None or goal == targets else [(swapped, goal)]


def _says_held_out(program: list) -> bool:
    return any((phrase.get("colour"), phrase.get("shape")) in HELD_OUT for phrase in mentions(program))


def _expression(text: str, program: list, targets: tuple, kind: str, other: list | None, facts: Facts) -> Expression:
    distractors = max(0, execute(head(program), facts).bit_count() - len(targets))
    return Expression(text, program, kind, targets, hops(program), distractors, kind == "ambiguous", other)
