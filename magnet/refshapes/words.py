"""What concepts are called. Common words come first in each list and follow Zipf's law; rare ones are kept apart.

A rare word is used once in 10,000 training expressions or less, below the 1 in 5,000 that defines split testR; the
shipped vocabulary holds the common words whole and only pieces of the rare ones.
"""

from bisect import bisect
from functools import lru_cache
from itertools import accumulate

import numpy as np

RARE_SHARE = 0.0008  # how often a concept that has rare words is named by one, in training
ZIPF = 1.4  # weight of the k-th word: k^-ZIPF

NOUNS_AND_ADJECTIVES: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "wedge"),
    "star": ("star", "pointed star"),
    "ring": ("ring", "hoop", "loop"),
    "cross": ("cross", "plus sign"),
    "heart": ("heart", "love heart"),
    "crescent": ("crescent", "moon", "half moon"),
    "thing": ("thing", "object", "shape", "item", "figure"),
    "red": ("red", "bright red", "ruby"),
    "orange": ("orange", "bright orange"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "deep blue"),
    "purple": ("purple", "violet"),
    "white": ("white", "snow white", "chalk white"),
    "black": ("black", "jet black", "coal black"),
    "plain": ("plain", "solid", "unpatterned"),
    "striped": ("striped", "stripy", "banded"),
    "dotted": ("dotted", "spotted", "speckled"),
    "checked": ("checked", "chequered", "checkered"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
}
PLACES: dict[str, tuple[str, ...]] = {  # {} is the noun
    "left": ("{} on the left", "left {}", "{} on the left side", "left-hand {}", "{} near the left edge"),
    "right": ("{} on the right", "right {}", "{} on the right side", "right-hand {}", "{} near the right edge"),
    "top": ("{} at the top", "top {}", "upper {}", "{} near the top edge"),
    "bottom": ("{} at the bottom", "bottom {}", "lower {}", "{} near the bottom edge"),
    "middle": ("{} in the middle", "middle {}", "central {}", "{} in the centre"),
    "top left": ("{} in the top left corner", "top left {}", "{} in the upper left", "upper left {}"),
    "top right": ("{} in the top right corner", "top right {}", "{} in the upper right", "upper right {}"),
    "bottom left": ("{} in the bottom left corner", "bottom left {}", "{} in the lower left", "lower left {}"),
    "bottom right": ("{} in the bottom right corner", "bottom right {}", "{} in the lower right", "lower right {}"),
}
SUPERLATIVES: dict[str, tuple[str, ...]] = {
    "left": ("leftmost {}", "{} furthest to the left", "{} farthest left"),
    "right": ("rightmost {}", "{} furthest to the right", "{} farthest right"),
    "top": ("topmost {}", "highest {}", "{} nearest the top"),
    "bottom": ("lowest {}", "bottommost {}", "{} nearest the bottom"),
    "largest": ("largest {}", "biggest {}", "{} that is the largest"),
    "smallest": ("smallest {}", "littlest {}", "{} that is the smallest"),
}
ORDINALS: dict[str, tuple[str, ...]] = {  # {} is the noun, {n} the rank
    "left": ("{n} {} from the left", "{n} {} from left", "{} that is {n} from the left"),
    "right": ("{n} {} from the right", "{n} {} from right", "{} that is {n} from the right"),
    "top": ("{n} {} from the top", "{n} {} from top", "{n} highest {}"),
    "bottom": ("{n} {} from the bottom", "{n} {} from bottom", "{n} lowest {}"),
    "largest": ("{n} largest {}", "{n} biggest {}"),
    "smallest": ("{n} smallest {}", "{n} littlest {}"),
}
RANKS = {2: ("second", "2nd"), 3: ("third", "3rd"), 4: ("fourth", "4th")}
RELATIONS: dict[str, tuple[str, ...]] = {  # {} is the noun, {a} the other one with its article
    "left of": ("{} left of {a}", "{} to the left of {a}", "{} with {a} on its right", "{} that is left of {a}"),
    "right of": ("{} right of {a}", "{} to the right of {a}", "{} with {a} on its left", "{} that is right of {a}"),
    "above": ("{} above {a}", "{} over {a}", "{} that is above {a}", "{} with {a} below it"),
    "below": ("{} below {a}", "{} under {a}", "{} beneath {a}", "{} with {a} above it"),
    "next to": ("{} next to {a}", "{} beside {a}", "{} close to {a}", "{} that is next to {a}", "{} by {a}"),
}
COMPARISONS: dict[str, tuple[str, ...]] = {  # {the} and {a_}: the bare articles, {b}: the other noun, {c}: the third
    "larger": ("{} larger than {a}", "{} bigger than {a}", "{} that is larger than {a}"),
    "smaller": ("{} smaller than {a}", "{} that is smaller than {a}", "{} not as big as {a}"),
    "next to larger": ("{} next to {a_}larger {b}", "{} beside {a_}bigger {b}", "{} that is next to {a_}larger {b}"),
    "next to smaller": ("{} next to {a_}smaller {b}", "{} beside {a_}smaller {b}"),
    "closer": ("{} closer to {a} than to {c}", "{} nearer to {a} than to {c}", "{} nearer {a} than {c}"),
}
NEGATIONS = ("{} that is not {b}", "{} which is not {b}", "{} that isn't {b}")
EXCLUSIONS = ("not {a}, the other one", "other {}, not {one}", "not {a} but the other")  # {one}: with "one" as noun
LATE_ATTRIBUTES = ("{} that is {b}", "{} which is {b}", "{}, it is {b}", "{}, the {b} one")
ATTRIBUTES = ("{}", "{} in the picture", "only {}", "{} here")

RARE: dict[str, tuple[str, ...]] = {
    "circle": ("roundel", "orb"),
    "square": ("quadrangle", "tile"),
    "triangle": ("trigon", "delta"),
    "star": ("pentagram", "starlet"),
    "ring": ("annulus", "circlet"),
    "cross": ("crucifix", "crosslet"),
    "heart": ("valentine", "cardioid"),
    "crescent": ("lunette", "sickle"),
    "red": ("crimson", "scarlet", "vermilion"),
    "orange": ("tangerine", "apricot"),
    "yellow": ("lemon", "saffron"),
    "green": ("verdant", "viridian"),
    "blue": ("cobalt", "sapphire"),
    "purple": ("mauve", "amethyst"),
    "white": ("ivory", "snowy"),
    "black": ("ebony", "inky"),
    "striped": ("pinstriped", "streaky"),
    "dotted": ("freckled", "dappled"),
    "checked": ("tartan", "gingham"),
    "small": ("diminutive", "minuscule"),
    "large": ("colossal", "hulking"),
    "order left": ("westernmost {}",),
    "order right": ("easternmost {}",),
    "order top": ("uppermost {}",),
    "order bottom": ("nethermost {}",),
    "order largest": ("bulkiest {}", "hugest {}"),
    "order smallest": ("tiniest {}", "minutest {}"),
    "above": ("{} overlooking {a}", "{} overtopping {a}"),
    "below": ("{} underneath {a}",),
    "next to": ("{} alongside {a}", "{} adjoining {a}", "{} neighbouring {a}"),
}


@lru_cache(maxsize=16)
def _cumulative(num: int) -> list[float]:
    """Zipf's law over num ranks, summed up to 1."""
    weights = [rank**-ZIPF for rank in range(1, num + 1)]
    return [total / sum(weights) for total in accumulate(weights)]


def zipf(options: tuple, rng: np.random.Generator):
    """One of the options, the first most often."""
    return options[bisect(_cumulative(len(options))[:-1], rng.random())]


class Voice:
    """One speaker: always the same word for the same concept, so that swapped sentences share their bag of words."""

    def __init__(self, rng: np.random.Generator, rare_share: float = RARE_SHARE) -> None:
        self._rng, self._rare_share = rng, rare_share
        self._chosen: dict[str, str] = {}
        self.rare = False  # has a rare word been used?
        self.the, self.a = ("", "") if rng.random() < 0.2 else ("the ", "a ")

    def say(self, concept: str, common: tuple[str, ...]) -> str:
        """The speaker's word or pattern for a concept, out of its common and its rare ones."""
        if concept not in self._chosen:
            rare = concept in RARE and self._rng.random() < self._rare_share
            self.rare |= rare
            self._chosen[concept] = zipf(RARE[concept] if rare else common, self._rng)
        return self._chosen[concept]

    def name(self, value: str) -> str:
        """A noun or an adjective."""
        return self.say(value, NOUNS_AND_ADJECTIVES[value])


def sentence(program: list, voice: Voice, several: bool = False) -> str:
    """A whole referring expression, to one object or to several."""
    text = _say(program, voice)
    if several:
        return f"every {text}"
    if program[0] == "objects":
        text = voice.say("attribute", ATTRIBUTES).format(text)
    return text if text.startswith("not ") else voice.the + text


def _say(program: list, voice: Voice) -> str:
    operation, *parts = program
    return _noun(parts[0], voice) if operation == "objects" else _SAYINGS[operation](voice, *parts)


def _noun(attributes: dict[str, str], voice: Voice) -> str:
    order = ("size", "texture", "colour")
    adjectives = [voice.name(attributes[name]) for name in order if name in attributes]
    return " ".join([*adjectives, voice.name(attributes.get("shape", "thing"))])


def _say_location(voice: Voice, things: list, place: str) -> str:
    return voice.say(f"place {place}", PLACES[place]).format(_say(things, voice))


def _say_superlative(voice: Voice, things: list, order: str) -> str:
    return voice.say(f"order {order}", SUPERLATIVES[order]).format(_say(things, voice))


def _say_ordinal(voice: Voice, things: list, order: str, rank: int) -> str:
    number = voice.say(f"rank {rank}", RANKS[rank])
    return voice.say(f"ordinal {order}", ORDINALS[order]).format(_say(things, voice), n=number)


def _say_relation(voice: Voice, things: list, relation: str, anchor: list) -> str:
    forms = RELATIONS[relation]
    if anchor[0] != "objects":  # "the star with the ring above the heart on its left" is no English
        forms = forms[:2]
    return voice.say(relation, forms).format(_say(things, voice), a=voice.the + _say(anchor, voice))


def _say_comparison(voice: Voice, things: list, how: str, anchor: list, other: list | None = None) -> str:
    noun = _say(anchor, voice)
    third = voice.the + _say(other, voice) if other else ""
    pattern = voice.say(how, COMPARISONS[how])
    return pattern.format(_say(things, voice), a=voice.the + noun, b=noun, c=third, a_=voice.a)


def _say_that_is(voice: Voice, things: list, value: str) -> str:
    return voice.say("late", LATE_ATTRIBUTES).format(_say(things, voice), b=voice.name(value))


def _say_except(voice: Voice, things: list, excluded: list) -> str:
    if excluded[0] != "objects":
        pattern = voice.say("exclusion", EXCLUSIONS)
        full = _say(excluded, voice)
        noun = _say(things, voice)
        return pattern.format(noun, a=f"the {full}", one=f"the {full.replace(noun, 'one')}")
    ((name, value),) = excluded[1].items()
    word = voice.name(value)
    article = ("an " if word[0] in "aeiou" else "a ") if name == "shape" else ""
    return voice.say("negation", NEGATIONS).format(_say(things, voice), b=article + word)


_SAYINGS = {
    "location": _say_location,
    "superlative": _say_superlative,
    "ordinal": _say_ordinal,
    "relation": _say_relation,
    "comparison": _say_comparison,
    "that is": _say_that_is,
    "except": _say_except,
}
