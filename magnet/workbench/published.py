"""oIoU in percent as the papers' tables have it, to stand beside ours, and the names of its columns."""

import re
from collections.abc import Callable, Mapping

COLUMNS = {  # the nine columns of the field's tables: data set, split_by, split
    "RefCOCO val": ("refcoco", "unc", "val"),
    "RefCOCO testA": ("refcoco", "unc", "testA"),
    "RefCOCO testB": ("refcoco", "unc", "testB"),
    "RefCOCO+ val": ("refcoco+", "unc", "val"),
    "RefCOCO+ testA": ("refcoco+", "unc", "testA"),
    "RefCOCO+ testB": ("refcoco+", "unc", "testB"),
    "G-Ref val (U)": ("refcocog", "umd", "val"),
    "G-Ref test (U)": ("refcocog", "umd", "test"),
    "G-Ref val (G)": ("refcocog", "google", "val"),
}
PUBLISHED = {
    method: dict(zip(COLUMNS, values))
    for method, values in {
        "LAVT": (72.73, 75.82, 68.79, 62.14, 68.38, 55.10, 61.24, 62.09, 60.50),
        "LAVT, one module": (73.50, 75.97, 69.33, 63.79, 69.79, 56.49, 64.02, 64.49, 61.31),
        "CoupAlign": (74.70, 77.76, 70.58, 62.92, 68.34, 56.69, 62.84, 62.22, None),
        "ReLA": (73.82, 76.48, 70.18, 66.04, 71.02, 57.65, 65.00, 65.97, 62.70),
        "MagNet": (75.24, 78.24, 71.05, 66.16, 71.32, 58.14, 65.36, 66.03, 63.13),
        "MagNet, three sets mixed": (76.55, 78.27, 72.15, 68.10, 73.64, 61.81, 67.79, 69.29, None),
    }.items()
}


def find_columns(wanted: str, own: Callable[[], Mapping[str, tuple]]) -> dict[str, tuple]:
    """The columns that `wanted` names, several names between commas. own: gives those of the weights' own data.

    A name is "own", "all" (the nine above), or a data set, alone or with split_by and split, in any writing:
    "refcoco+", "refcocog_umd", "refcoco unc testA", "G-Ref val (U)"; it stands for every column that has all its words.
    Raises ValueError with what there is where there is none.
    """
    found = {}
    for name in (part.strip() for part in wanted.split(",")):
        groups = {"own": own, "all": lambda: COLUMNS}
        meant = groups[name]() if name in groups else _meant(name, COLUMNS) or _meant(name, own())
        if not meant:
            known = dict.fromkeys([*groups, *own(), *COLUMNS, *("_".join(c[:2]) for c in COLUMNS.values())])
            raise ValueError(f"no column {name!r}; there are {', '.join(known)}; give one, or several between commas")
        found |= meant
    return found


def _meant(name: str, columns: Mapping[str, tuple]) -> dict[str, tuple]:
    named = _words(name)
    return {t: c for t, c in columns.items() if _words(c[0]) <= named <= _words(" ".join((t, *c)))}


def _words(text: str) -> set[str]:
    one_name = re.sub(r"(?<![a-z])g-?ref(?![a-z])", "refcocog", text.lower())
    return set(re.findall(r"[a-z0-9+]+", one_name))
