"""Programs worth trying on a scene: for every kind of expression a function that draws one at random.

A proposal is (program, other reading or None), or None where the scene has nothing of the kind. It need not hold:
`language.expressions` runs it and keeps what describes exactly the wanted number of objects.
"""

from bisect import bisect
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from magnet.refshapes.programs import COMPARISONS, LINKS, MAYBE, ORDERS, PLACES, RELATIONS, SURE, Facts, execute, sole
from magnet.refshapes.scene import HELD_OUT, Scene

Proposal = tuple[list, list | None] | None

_PHRASES = (  # attributes named in a noun phrase, and how often
    (("shape",), 0.32),
    (("colour", "shape"), 0.36),
    (("texture", "shape"), 0.1),
    (("colour",), 0.1),
    (("size", "shape"), 0.04),
    (("texture", "colour", "shape"), 0.05),
    (("size", "colour", "shape"), 0.03),
)
_WEIGHTS = dict(_PHRASES)
_UNPAIRED = 0.1  # weight of a relation whose role-swapped twin describes nothing


class Noun(NamedTuple):
    """A noun phrase: ["objects", attributes], the set of objects it fits, and how often it is preferred."""

    program: list
    fits: int
    weight: float


class Inventory:
    """What there is to talk about in a scene."""

    def __init__(self, scene: Scene) -> None:
        self.facts = Facts(scene)
        table: dict[tuple, Noun] = {}
        for thing in scene.objects:
            attributes = thing._asdict()
            for names, weight in _PHRASES:
                values = tuple([attributes[name] for name in names])
                if values not in table and "medium" not in values:
                    program = ["objects", dict(zip(names, values))]
                    table[values] = Noun(program, execute(program, self.facts), weight)
        self.nouns = list(table.values())
        self.shared = [noun for noun in self.nouns if noun.fits & (noun.fits - 1)]
        self.unique = [noun for noun in self.nouns if not noun.fits & (noun.fits - 1)]
        self.values = {
            name: sorted({getattr(t, name) for t in scene.objects}) for name in ("shape", "colour", "texture")
        }

    @cached_property
    def links(self) -> "Links":
        return Links(self)


class Links:
    """For every link and pair of noun phrases at once: does "NOUN link ANCHOR" describe one object beyond doubt?"""

    def __init__(self, inventory: Inventory) -> None:
        nouns, facts = inventory.nouns, inventory.facts
        bits = np.array([noun.fits for noun in nouns])[:, None] >> np.arange(facts.num) & 1
        self._fits = fits = bits.astype(np.float32)  # (nouns, objects)
        self._links = facts.links.astype(np.float32)
        reach = np.minimum(self._links @ fits.T, 1)  # (level, link, object, anchor noun)
        sure, maybe = fits @ reach  # how many objects of the noun are linked, (link, noun, anchor noun)
        self._num = num = fits.sum(1)
        self.apart = fits @ fits.T == 0
        self.one = (sure == 1) & (maybe == 1) & self.apart
        self.target = self.one * ((fits * np.arange(facts.num, dtype=np.float32)) @ reach[SURE]).astype(int)
        described = self.one & (num > 1)[:, None]
        swapped = described.transpose(0, 2, 1) & (self.target != self.target.transpose(0, 2, 1))
        self._paired = described & swapped
        self._weight = np.array([noun.weight for noun in nouns], np.float32)
        weights = described * np.where(self._paired, 1, _UNPAIRED) * self._weight[:, None] * self._weight
        for name in ("larger", "smaller"):  # "larger than the ring" needs one ring
            weights[LINKS.index(name)] *= num == 1
        self._weights = weights
        self.loose = _cumulative(weights)

    @cached_property
    def strict(self) -> np.ndarray:
        """Like `loose`, for sentences that stand beside their role-swapped twin, both of heads that fit two objects."""
        return _cumulative(self._weights * self._paired * (self._num == 2)[:, None] * (self._num == 2))

    @cached_property
    def hops(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Two hops, neither idle: cumulative weights of the inner one (relation, middle noun, anchor noun); weights of
        the outer one (relation, noun, middle noun); whether it picks one object (relation, noun, middle object).
        """
        num_relations, num_nouns = len(RELATIONS), len(self._weight)
        to_object = (self._fits @ self._links[:, :num_relations] == 1).all(0)
        head = self._weight * (self._num > 1)
        outer = (self.apart & ~self.one[:num_relations]) * head[:, None]  # without the inner hop it picks none
        possible = outer.reshape(-1, num_nouns).T @ to_object.reshape(num_relations * num_nouns, -1).astype(np.float32)
        reachable = possible[np.arange(num_nouns)[:, None], self.target[:num_relations]] > 0
        return _cumulative(self._weights[None, :num_relations] * reachable)[0], outer, to_object


def _cumulative(weights: np.ndarray) -> np.ndarray:
    """Weights (rows, ...) summed up along everything but the rows."""
    return weights.reshape(len(weights), -1).cumsum(1)


def _weighted(options, weights, rng: np.random.Generator):
    totals = list(accumulate(weights))
    return options[bisect(totals, rng.random() * totals[-1], 0, len(totals) - 1)] if totals else None


def _any(options, rng: np.random.Generator):
    return options[int(len(options) * rng.random())]


def _pick(nouns: list[Noun], rng: np.random.Generator, apart: int = 0) -> Noun | None:
    """A noun phrase that fits none of the set `apart`."""
    good = [noun for noun in nouns if not noun.fits & apart]
    return _weighted(good, [noun.weight for noun in good], rng)


def _cell(totals: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...] | None:
    """An index into an array of that shape, drawn by its cumulative weights."""
    total = totals[-1]
    if not total:
        return None
    cell, index = int(totals.searchsorted(rng.random() * total, side="right")), []
    for size in reversed(shape):
        cell, last = divmod(cell, size)
        index.append(last)
    return tuple(index[::-1])


def _linked(names: tuple[str, ...], inventory: Inventory, rng: np.random.Generator, paired: bool):
    """(noun, link, anchor): each link that describes anything is equally likely."""
    table, nouns = inventory.links.strict if paired else inventory.links.loose, inventory.nouns
    rows = [row for row in map(LINKS.index, names) if table[row, -1]]
    if not rows:
        return None
    row = _any(rows, rng)
    noun, anchor = _cell(table[row], (len(nouns), len(nouns)), rng)
    return nouns[noun], LINKS[row], nouns[anchor]


def _attribute(inventory: Inventory, rng: np.random.Generator, paired: bool) -> Proposal:
    noun = _pick(inventory.unique, rng)
    return noun and (noun.program, None)


def _location(inventory: Inventory, rng: np.random.Generator, paired: bool) -> Proposal:
    noun = _pick(inventory.shared, rng)
    return noun and (["location", noun.program, _any(PLACES, rng)], None)


def _superlative(inventory: Inventory, rng: np.random.Generator, paired: bool) -> Proposal:
    noun = _pick(inventory.shared, rng)
    return noun and (["superlative", noun.program, _any(ORDERS, rng)], None)


def _ordinal(inventory: Inventory, rng: np.random.Generator, paired: bool) -> Proposal:
    noun = _pick([noun for noun in inventory.shared if noun.fits.bit_count() > 2], rng)
    ranks = noun and min(noun.fits.bit_count() - 1, 3)
    return noun and (["ordinal", noun.program, _any(ORDERS, rng), 2 + int(ranks * rng.random())], None)


def _relation(inventory: Inventory, rng: np.random.Generator, paired: bool) -> Proposal:
    link = _linked(RELATIONS, inventory, rng, paired)
    return link and (["relation", link[0].program, link[1], link[2].program], None)


def _two_hop(inventory: Inventory, rng: np.random.Generator, paired: bool) -> Proposal:
    """The other attachment ("the star ... above the heart") must not mislead."""
    links, shape = inventory.links, (len(RELATIONS), len(inventory.nouns))
    inner_totals, outer_weights, to_object = links.hops
    inner = _cell(inner_totals, (*shape, shape[1]), rng)
    if inner is None:
        return None
    second, middle, anchor = inner
    weights = outer_weights[:, :, middle] * to_object[..., links.target[inner]] * links.apart[anchor]
    outer = _cell(weights.cumsum(), shape, rng)
    if outer is None:
        return None
    noun, middle, anchor = (inventory.nouns[k].program for k in (outer[1], middle, anchor))
    first, second = RELATIONS[outer[0]], RELATIONS[second]
    program = ["relation", noun, first, ["relation", middle, second, anchor]]
    misread = ["relation", ["relation", noun, first, middle], second, anchor]
    only = sole(program, inventory.facts)
    return (program, None) if only is not None and sole(misread, inventory.facts) in (None, only) else None


def _comparison(inventory: Inventory, rng: np.random.Generator, paired: bool) -> Proposal:
    if rng.random() < (0.05 if paired else 0.4):  # its twin always exists, unlike that of the others
        return _closer(inventory, rng)
    link = _linked(COMPARISONS, inventory, rng, paired)
    if not link or any("size" in noun.program[1] for noun in (link[0], link[2])):
        return None
    return ["comparison", link[0].program, link[1], link[2].program], None


def _closer(inventory: Inventory, rng: np.random.Generator) -> Proposal:
    noun = _pick(inventory.shared, rng)
    anchor = noun and _pick(inventory.unique, rng, noun.fits)
    other = anchor and _pick(inventory.unique, rng, noun.fits | anchor.fits)
    return other and (["comparison", noun.program, "closer", anchor.program, other.program], None)


def _negation(inventory: Inventory, rng: np.random.Generator, paired: bool) -> Proposal:
    name = _weighted(("colour", "texture", "shape"), (6, 2, 2), rng)
    noun = _pick([noun for noun in inventory.shared if name not in noun.program[1]], rng)
    return noun and (["except", noun.program, ["objects", {name: _any(inventory.values[name], rng)}]], None)


def _ambiguous(inventory: Inventory, rng: np.random.Generator, paired: bool) -> Proposal:
    """Where does "that is red" attach? Or: not this one of two, the other."""
    return (_elliptic if rng.random() < 0.1 else _attached)(inventory, rng)


def _attached(inventory: Inventory, rng: np.random.Generator) -> Proposal:
    relation, name = _any(RELATIONS, rng), "colour" if rng.random() < 0.6 else "texture"
    nouns = [noun for noun in inventory.shared if name not in noun.program[1]]
    noun = _pick(nouns, rng)
    anchor = noun and _pick(nouns, rng, noun.fits)
    if not anchor:
        return None
    value = _any(inventory.values[name], rng)
    readings = [
        ["that is", ["relation", noun.program, relation, anchor.program], value],
        ["relation", noun.program, relation, ["that is", anchor.program, value]],
    ]
    single = [sole(reading, inventory.facts) is not None for reading in readings]
    if sum(single) != 1:
        return None
    program, other = readings if single[0] else readings[::-1]
    return None if execute(other, inventory.facts, MAYBE) else (program, other)


def _elliptic(inventory: Inventory, rng: np.random.Generator) -> Proposal:
    noun = _pick([noun for noun in inventory.shared if noun.fits.bit_count() == 2], rng)
    if not noun:
        return None
    shown = ["superlative", noun.program, _any(ORDERS, rng)]
    return ["except", noun.program, shown], ["except", ["objects", {}], shown]


def _absent(inventory: Inventory, rng: np.random.Generator, paired: bool) -> Proposal:
    """A colour and a shape of the scene, together; that no object has both is for the caller to see."""
    colour, shape = (_any(inventory.values[name], rng) for name in ("colour", "shape"))
    return None if (colour, shape) in HELD_OUT else (["objects", {"colour": colour, "shape": shape}], None)


def _several(inventory: Inventory, rng: np.random.Generator, paired: bool) -> Proposal:
    noun = _pick(inventory.shared, rng)
    return noun and (noun.program, None)


def _any_relation(inventory: Inventory, rng: np.random.Generator, paired: bool) -> Proposal:
    noun = _pick(inventory.nouns, rng)
    anchor = _pick(inventory.nouns, rng, noun.fits)
    return anchor and (["relation", noun.program, _any(RELATIONS, rng), anchor.program], None)


PROPOSERS = {  # number of objects meant -> kind -> proposer(inventory, rng, paired)
    "one": {
        "attribute": _attribute,
        "location": _location,
        "superlative": _superlative,
        "ordinal": _ordinal,
        "relation": _relation,
        "two_hop": _two_hop,
        "comparison": _comparison,
        "negation": _negation,
        "ambiguous": _ambiguous,
    },
    "none": {"attribute": _absent, "relation": _any_relation},
    "many": {"attribute": _several, "location": _location, "relation": _any_relation},
}
