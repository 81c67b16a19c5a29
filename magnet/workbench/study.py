"""A study: variants that differ in what is asked about, seeds, and, stated beforehand, what would refute the claim.

    {
      "name": "words", "claim": "...", "refuted_by": "...",
      "variants": {"plain": {}, "grounded": {"grounding": {"ratio": 0.3}}},
      "comparisons": [["Mask Grounding", "grounded", "plain"]]
    }

is a study in a file, `magnet ablate words.json`; studies.py has those that come with the package. A variant is what it
changes, field by field as in config.py; besides it may name another `recipe`, or the variant whose finished run of the
same seed it starts from, `init`.
"""

import re
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import magnet
from magnet import runs
from magnet.config import Config
from magnet.workbench.demo import shortened
from magnet.workbench.errors import KINDS

SHARED = ("batch_size", "num_epochs", "num_steps", "warmup_steps", "val_every", "val_expressions")  # of optim
LATER = 1000  # added to the seed of a variant that starts from another: its scenes are new ones
NAME = r"[A-Za-z0-9_]{1,100}"  # of studies and variants: they become file names
TABLES = ("_effects", "_groups", "_errors")  # how the names of a study's further tables end


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is trained, compared and asked. Raises ValueError for values that cannot be and names that do not fit."""

    name: str
    claim: str
    refuted_by: str  # the result that would, said before there is any
    variants: dict[str, dict[str, Any]]  # name -> changes of the recipe, and "recipe" or "init"
    comparisons: tuple[tuple[str, str, str], ...] = ()  # (name, a, b): what a scores above b
    factorial: dict[str, tuple[str, ...]] = field(default_factory=dict)  # variant -> parts that are on in it
    errors: tuple[str, ...] = ()  # kinds of errors.py, compared besides the scores
    recipe: str = "magnet_tiny"  # data and length of the training are its own in every variant
    num_steps: int | None = 500  # None: the recipe's own
    changes: dict[str, Any] = field(default_factory=dict)  # of every variant
    splits: tuple[str, ...] = ("val", "testA", "testB")  # the claim is decided on the first
    num_expressions: int | None = None  # of each split, evenly spread; None: all
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def __post_init__(self):
        self._check_values()
        self._check_names()
        self._check_contrasts()

    def _check_values(self) -> None:
        for name in ("claim", "refuted_by", "variants", "seeds", "splits"):
            if not (value := getattr(self, name)) or (isinstance(value, str) and not value.strip()):
                raise ValueError(f"{name} of {self.name} is empty")
        for name in ("seeds", "splits"):
            if len(set(values := getattr(self, name))) < len(values):
                raise ValueError(f"{name} = {list(values)} of {self.name}: one comes twice")
        if min(self.seeds) < 0:
            raise ValueError(f"seeds = {list(self.seeds)} of {self.name}: they start at 0")
        for name in ("num_steps", "num_expressions"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} = {value} of {self.name}: 1 or more, or null for all that there are")

    def _check_names(self) -> None:
        for name in (self.name, *self.variants):
            if not re.fullmatch(NAME, name):
                raise ValueError(f"{name!r} names a study or variant: letters, digits and _ are needed, for files")
        if self.name.endswith(TABLES):
            raise ValueError(f"name = {self.name!r}: what ends in {', '.join(TABLES)} is a table of another study")
        for name, a, b in self.comparisons:
            self._known(f"comparison {name!r}", a, b)
            if a == b:
                raise ValueError(f"comparison {name!r} of {self.name} compares {a!r} with itself")
        self._known("factorial", *self.factorial)
        for name, changes in {"changes": self.changes, **self.variants}.items():
            _check_free(f"{name} of {self.name}", changes)
        for name in self.variants:
            if (init := self.start(name)) and self.start(self._known(f"init of {name!r}", init)[0]):
                raise ValueError(f"variant {name!r} starts from {init!r}, which starts from another: one step at most")
        if unknown := [kind for kind in self.errors if kind not in KINDS]:
            raise ValueError(f"errors of {self.name}: no kind {unknown[0]!r}; there are {', '.join(KINDS)}")

    def _check_contrasts(self) -> None:
        parts = {frozenset(on) for on in self.factorial.values()}
        if self.factorial and not len(parts) == len(self.factorial) == 2 ** len(self.factors):
            raise ValueError(f"factorial: each set of {', '.join(self.factors)} must be on in exactly one variant")
        if len(self.contrasts()) != 2 ** len(self.factors) - 1 + len(self.comparisons):
            raise ValueError(f"comparisons of {self.name}: each needs a name that no other and no effect has")

    def _known(self, where: str, *variants: str) -> tuple[str, ...]:
        if unknown := [name for name in variants if name not in self.variants]:
            raise ValueError(f"{where}: no variant {unknown[0]!r} in {self.name}; there are {', '.join(self.variants)}")
        return variants

    @property
    def factors(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part for on in self.factorial.values() for part in on))

    def start(self, variant: str) -> str | None:
        """The variant whose finished run this one starts from."""
        return self.variants[variant].get("init")

    def chosen(self, variants: tuple[str, ...] = (), seeds: tuple[int, ...] = ()) -> list[tuple[str, int]]:
        """(variant, seed), all variants of a seed before the next; () is all. ValueError lists what exists."""
        variants = self._known("--variants", *variants) or tuple(self.variants)
        if unknown := [seed for seed in seeds if seed not in self.seeds]:
            there = ", ".join(map(str, self.seeds))
            raise ValueError(f"--seeds: no seed {unknown[0]} in {self.name}; there are {there}")
        variants, seeds = dict.fromkeys(variants), dict.fromkeys(seeds or self.seeds)  # each once
        return [(variant, seed) for seed in seeds for variant in variants]

    def config(self, variant: str, seed: int, root: str | Path | None = None) -> Config:
        """The whole run. ValueError names a setting that does not exist and lists those that do.

        A variant that starts from another goes on without the curriculum, on scenes that the other has not met.
        """
        own = dict(self.variants[variant])
        recipe, init = own.pop("recipe", self.recipe), own.pop("init", None)
        config = changed(changed(self._base(recipe), self.changes), own)
        data = replace(config.data, root=None if root is None else str(root))
        if init:
            data, seed = replace(data, easy_first=0), seed + LATER
        return replace(config, data=data, seed=seed)

    def _base(self, recipe: str) -> Config:
        """That recipe with the data, the length of training and the batch of the study's own."""
        base = magnet.recipe(self.recipe)
        if self.num_steps and base.optim.num_steps:
            base = shortened(base, self.num_steps / base.optim.num_steps)
        optim = replace(base.optim, num_steps=self.num_steps or base.optim.num_steps)
        if self.num_steps:  # one validation, at the end: the last weights are the run's
            optim = replace(optim, val_every=self.num_steps, val_expressions=50)
        own = magnet.recipe(recipe)
        shared = {name: getattr(optim, name) for name in SHARED}
        return replace(own, data=base.data, optim=replace(own.optim, **shared))

    def digest(self, variant: str, seed: int) -> str:
        """Of what is trained, as `runs.config_hash` takes it, the run it starts from included. Numbers depend on the
        machine, too, which the facts beside a run's table name, and on how a batch is split."""
        init = self.start(variant)
        return runs.config_hash(self.config(variant, seed), self.digest(init, seed) if init else None)

    def contrasts(self) -> dict[str, dict[str, float]]:
        """name -> weight of each variant's score in it: the factorial's effects, then the comparisons.

        A part's effect is its mean over all settings of the others. An interaction is in points beyond the sum: of two
        parts, what one is worth more beside the other than without it; of three, how much the third changes that.
        """
        found, factors = {}, self.factors
        for order in range(1, len(factors) + 1):
            for some in combinations(factors, order):
                signs = {v: prod(1 if part in on else -1 for part in some) for v, on in self.factorial.items()}
                found[" × ".join(some)] = {v: sign / 2 ** (len(factors) - order) for v, sign in signs.items()}
        return found | {name: {a: 1.0, b: -1.0} for name, a, b in self.comparisons}

    def smoke(self) -> "Study":
        """The same at a size that shows whether everything runs, and nothing else."""
        small = {
            "model": {"vision": {"pretraining_steps": 1}}, "data": {"image_size": 48},
            "optim": {"batch_size": 2, "num_processes": 1, "val_expressions": 2},
        }  # fmt: skip
        return replace(self, changes=_both(self.changes, small), num_steps=2, seeds=self.seeds[:2], num_expressions=6)


def _check_free(where: str, changes: dict[str, Any]) -> None:
    """What the command line decides is no variant's."""
    if "seed" in changes:
        raise ValueError(f"seed in {where}: seeds are the study's own field, the same for all variants")
    if isinstance(changes.get("data"), dict) and "root" in changes["data"]:
        raise ValueError(f"data.root in {where}: the folder is given on the command line, --root")


def _both(first: dict, second: dict) -> dict:
    """Nested changes, the second on top."""
    return first | {
        key: _both(first[key], value) if isinstance(value, dict) and isinstance(first.get(key), dict) else value
        for key, value in second.items()
    }


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """The configuration with nested fields changed, as in {"model": {"fusion": "pwam"}, "grounding": {}}.

    A part that is off, as grounding, is switched on by a dict and off by None. ValueError names an unknown field and
    lists those that exist, or says which values one takes.
    """
    return runs.config_from_dict(_merged(runs.config_to_dict(config), changes, Config))


def _merged(values: dict | None, changes: dict, kind: type, where: str = "") -> dict:
    names = [f.name for f in fields(kind)]
    merged = dict(values or {})
    for name, value in changes.items():
        if name not in names:
            raise ValueError(f"no setting {where}{name}; there are {', '.join(where + known for known in names)}")
        hint = get_type_hints(kind)[name]
        part = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
        inside = part is not None and isinstance(value, dict)
        merged[name] = _merged(merged.get(name), value, part, f"{where}{name}.") if inside else value
    return merged


def read_study(path: str | Path) -> Study:
    """A study from a JSON file. FileNotFoundError or ValueError name the file and what is wrong."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a study's file is JSON, see magnet/workbench/study.py")
    values = runs.read_json(path)
    names = [f.name for f in fields(Study)]
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no object {{...}} with the fields {', '.join(names)}")
    if unknown := sorted(values.keys() - set(names)):
        raise ValueError(f"{path}: no field {unknown[0]!r} in a study; there are {', '.join(names)}")
    try:
        for name, value in values.items():
            _check_lists(value, get_type_hints(Study)[name], name)
        study = runs.config_from_dict(values, Study)
        _check_different(study)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return study


def _check_different(study: Study) -> None:
    """Variants that are one run under two names differ by 0 for sure, which no study finds."""
    met = {}
    for variant in study.variants:
        if (other := met.setdefault(study.digest(variant, 0), variant)) != variant:
            raise ValueError(f"variants {other!r} and {variant!r} are the same: both change the recipe to one network")


def _check_lists(value: Any, hint: Any, where: str) -> None:
    """Where a tuple is wanted, JSON has a list; a string would be taken for its letters."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} = {value!r}: a list is needed")
        for each in value:
            _check_lists(each, inner[0], where)
    if origin is dict and isinstance(value, dict):
        for name, each in value.items():
            _check_lists(each, inner[1], f"{where}.{name}")
