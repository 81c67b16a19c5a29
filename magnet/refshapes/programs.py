"""Small programs that pick objects out of a scene, and the interpreter that runs them.

A program is nested JSON lists; the head phrase ("the star") sits innermost, at position 1:

    ["objects", {"shape": "star", "colour": "red"}]     every red star
    ["location", SET, "left"]                           those on the left of the picture
    ["superlative", SET, "largest"]                     the largest of them
    ["ordinal", SET, "left", 2]                         the second from the left
    ["relation", SET, "left of", ANCHORS]               those left of some anchor
    ["comparison", SET, "larger", ANCHORS]              those larger than some anchor
    ["comparison", SET, "closer", ANCHORS, OTHERS]      those closer to an anchor than to any of the others
    ["that is", SET, "red"]                             those with an attribute
    ["except", SET, SET]                                the first set without the second

Every predicate is run twice: "sure" (a clear margin) and "maybe" (anything a person might still grant). A program
describes an object only if both runs give that object and nothing else. A set of objects is an int, bit k = object k.
Relations need one anchor, not a unique one: "the star left of the ring" is good English in a scene with two rings when
only one star is left of one (Haddock 1987, "the rabbit in the hat").
"""

import numpy as np

from magnet.refshapes.scene import Scene

SURE, MAYBE = 0, 1
PLACES = ("left", "right", "top", "bottom", "middle", "top left", "top right", "bottom left", "bottom right")
ORDERS = ("left", "right", "top", "bottom", "largest", "smallest")
RELATIONS = ("left of", "right of", "above", "below", "next to")
COMPARISONS = ("larger", "smaller", "next to larger", "next to smaller")
LINKS = RELATIONS + COMPARISONS  # what may hold between two objects; "closer" takes three

_EDGE = (0.38, 0.52)  # sure and maybe "on the left": the centre's distance from that edge
_MIDDLE = (0.13, 0.24)  # half width of the middle square
_STEP = 0.05  # two objects are in order, left to right, from this distance on
_SIZE_STEP = 0.14  # and by size, from this difference of log diameters on
_CONE = ((1.2, 0.06), (0.55, 0.0))  # left of: dx > slope |dy| + distance
_GAP = (0.05, 0.14)  # next to: widest gap between the enclosing circles
_LARGER = (0.2, -0.08)  # larger: difference of log diameters
_CLOSER = (0.7, 1.15)  # closer: ratio of distances


class Facts:
    """All that programs can ask about a scene, as bit sets: having[value], places[place][level],
    ahead/behind[order][object] and holds[link][level][object].

    links[level, link, object, anchor] is the last as a bool array; distance[object][object] is between centres.
    """

    def __init__(self, scene: Scene) -> None:
        things = scene.objects
        self.num = len(things)
        self.every = (1 << self.num) - 1
        self.having: dict[str, int] = {}
        for k, thing in enumerate(things):
            for value in thing[:4]:
                self.having[value] = self.having.get(value, 0) | 1 << k
        x, y, diameter = (np.array([getattr(thing, name) for thing in things]) for name in ("x", "y", "diameter"))
        self._bits = 1 << np.arange(self.num)
        self._places(x, y)
        self._orders(x, y, np.log(diameter))
        self._relations(x, y, diameter)

    def _sets(self, table: np.ndarray) -> list:
        return (table @ self._bits).tolist()

    def _places(self, x: np.ndarray, y: np.ndarray) -> None:
        edges = np.stack([x, 1 - x, y, 1 - y])
        middle = np.maximum(np.abs(x - 0.5), np.abs(y - 0.5))
        self.places = {"middle": self._sets(np.stack([middle < limit for limit in _MIDDLE]))}
        sides = [self._sets(edges < limit) for limit in _EDGE]
        for name, pair in zip(PLACES, zip(*sides)):
            self.places[name] = list(pair)
        for name in PLACES[5:]:
            first, second = name.split()
            self.places[name] = [a & b for a, b in zip(self.places[first], self.places[second])]

    def _orders(self, x: np.ndarray, y: np.ndarray, log_size: np.ndarray) -> None:
        along = np.stack([x, y, log_size])
        step = np.array([_STEP, _STEP, _SIZE_STEP])[:, None, None]
        before = along[:, :, None] + step < along[:, None, :]
        forward, backward = self._sets(before), self._sets(before.transpose(0, 2, 1))
        pairs = (("left", "right"), ("top", "bottom"), ("smallest", "largest"))
        self.ahead, self.behind = {}, {}
        for (first, last), later, earlier in zip(pairs, forward, backward):
            self.ahead[first] = self.behind[last] = later
            self.behind[first] = self.ahead[last] = earlier

    def _relations(self, x: np.ndarray, y: np.ndarray, diameter: np.ndarray) -> None:
        dx, dy = x[None, :] - x[:, None], y[None, :] - y[:, None]
        distance = np.hypot(dx, dy)
        gap = distance - (diameter[None, :] + diameter[:, None]) / 2 + np.eye(self.num)  # none is next to itself
        ratio = np.log(diameter[:, None] / diameter[None, :])
        along, across = np.stack([dx, -dx, dy, -dy]), np.abs(np.stack([dy, dy, dx, dx]))
        self.links = np.empty((2, len(LINKS), self.num, self.num), bool)
        for level, (slope, least), widest, larger in zip((SURE, MAYBE), _CONE, _GAP, _LARGER):
            near, bigger = gap < widest, ratio > larger
            np.fill_diagonal(bigger, False)
            self.links[level, :4] = along > slope * across + least
            self.links[level, 4:] = near, bigger, bigger.T, near & bigger.T, near & bigger
        self.holds = dict(zip(LINKS, map(list, zip(*self._sets(self.links)))))
        self.distance = distance.tolist()


def execute(program: list, facts: Facts, level: int = SURE) -> int:
    """Run a program: the set of objects it picks, sure (0) or maybe (1). An unknown operation raises ValueError."""
    try:
        operation = _OPERATIONS[program[0]]
    except KeyError:
        raise ValueError(f"no operation {program[0]!r} in {program}; there are {', '.join(_OPERATIONS)}") from None
    return operation(facts, level, *program[1:])


def sole(program: list, facts: Facts) -> int | None:
    """The one object that a program describes beyond doubt, or None."""
    sure = execute(program, facts, SURE)
    if not sure or sure & (sure - 1) or sure != execute(program, facts, MAYBE):
        return None
    return sure.bit_length() - 1


def head(program: list) -> list:
    """The head phrase alone: "the star" of "the star left of the ring"."""
    while program[0] != "objects":
        program = program[1]
    return program


def swap(program: list) -> list | None:
    """The same words in each other's role: "the ring left of the star". None where there are no two roles."""
    if program[0] == "comparison" and program[2] == "closer":
        return [*program[:3], program[4], program[3]]
    if program[0] in ("relation", "comparison"):
        return [program[0], program[3], program[2], program[1]]
    return None


def mentions(program: list) -> list[dict]:
    """The attributes of every noun phrase, in order."""
    if program[0] == "objects":
        return [program[1]]
    return [phrase for part in program[1:] if isinstance(part, list) for phrase in mentions(part)]


def hops(program: list) -> int:
    """How many relations or comparisons one follows to the answer."""
    own = program[0] in ("relation", "comparison")
    return own + sum(hops(part) for part in program[1:] if isinstance(part, list))


def members(chosen: int) -> list[int]:
    """A bit set as a list of object indices."""
    return [k for k in range(chosen.bit_length()) if chosen >> k & 1]


def _objects(facts: Facts, level: int, attributes: dict[str, str]) -> int:
    chosen = facts.every
    for value in attributes.values():
        chosen &= facts.having.get(value, 0)
    return chosen


def _location(facts: Facts, level: int, things: list, place: str) -> int:
    return execute(things, facts, level) & facts.places[place][level]


def _ordinal(facts: Facts, level: int, things: list, order: str, rank: int = 1) -> int:
    chosen = execute(things, facts, level)
    num = chosen.bit_count()
    result = 0
    for k in members(chosen):
        before = (facts.behind[order][k] & chosen).bit_count()
        after = (facts.ahead[order][k] & chosen).bit_count()
        if before <= rank - 1 and after <= num - rank and (level == MAYBE or before + after == num - 1):
            result |= 1 << k
    return result


def _relation(facts: Facts, level: int, things: list, relation: str, anchors: list, others: list | None = None) -> int:
    anchor_set = execute(anchors, facts, level)
    chosen = members(execute(things, facts, level))
    if relation == "closer":
        other_set = execute(others, facts, level)
        return sum(1 << k for k in chosen if _closer(facts.distance[k], anchor_set, other_set, _CLOSER[level]))
    holds = facts.holds[relation][level]
    return sum(1 << k for k in chosen if holds[k] & anchor_set)


def _closer(distance: list[float], anchors: int, others: int, ratio: float) -> bool:
    if not anchors or not others:
        return False
    return min(distance[k] for k in members(anchors)) < ratio * min(distance[k] for k in members(others))


def _that_is(facts: Facts, level: int, things: list, value: str) -> int:
    return execute(things, facts, level) & facts.having.get(value, 0)


def _except(facts: Facts, level: int, things: list, excluded: list) -> int:
    return execute(things, facts, level) & ~execute(excluded, facts, 1 - level)


_OPERATIONS = {
    "objects": _objects,
    "location": _location,
    "superlative": _ordinal,
    "ordinal": _ordinal,
    "relation": _relation,
    "comparison": _relation,
    "that is": _that_is,
    "except": _except,
}
