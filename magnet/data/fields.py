"""The fields of a ref and its sentences: what each must be; anything else is a ValueError that says what it is."""

import json

NOTHING = -1  # ann_id and category_id of a sentence that speaks of no object


def targets(ref: dict) -> list[int]:
    """The annotations that a ref speaks of: one, or gRefCOCO's list of several or, as [-1], of none.

    Raises ValueError for an object that comes twice and for a `no_target` that says otherwise.
    """
    ann_id = ref["ann_id"]
    listed = ann_id if isinstance(ann_id, list) else [integers(ref, "ann_id")["ann_id"]]
    found = [] if listed == [NOTHING] else listed
    if not listed or not all(_is_id(each) for each in found):
        raise ValueError(f"ann_id is {ann_id}: whole numbers from 0 are needed, or [-1] for no object")
    if len(set(found)) < len(found):
        raise ValueError(f"ann_id is {ann_id}: an object comes twice")
    if ref.get("no_target", not found) != (not found):
        raise ValueError(f"no_target is {ref['no_target']!r}, but ann_id is {ann_id}")
    return found


def integers(record: dict, *keys: str) -> dict[str, int]:
    """These fields of `record`, each a whole number from 0 that fits 64 bits."""
    for key in keys:
        if not _is_id(record[key]):
            raise ValueError(f"{key} is {record[key]!r}, not a whole number from 0")
    return {key: record[key] for key in keys}


def _is_id(value) -> bool:
    return type(value) is int and 0 <= value < 2**63  # true and false are ints to isinstance


def string(record: dict, key: str) -> str:
    """This field of `record`, a string that can be stored."""
    if not isinstance(record[key], str):
        raise ValueError(f"{key} is {record[key]!r}, not a string")
    record[key].encode()  # half a surrogate pair could not be stored
    return record[key]


def once(key: str, value: int, seen: set[int]) -> None:
    """Add `value` to `seen`; ValueError where it is in it."""
    if value in seen:
        raise ValueError(f"{key} {value} comes more than once")
    seen.add(value)


def sentences(ref: dict) -> list[dict]:
    """What is said about a ref: one sentence or more."""
    if not ref["sentences"] or not all(isinstance(sentence, dict) for sentence in ref["sentences"]):
        raise ValueError(f"sentences is {ref['sentences']!r}, not a list of sentences")
    return ref["sentences"]


def plain(value):
    """A sentence's own field as a column can hold it."""
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{value} does not fit 64 bits")
    if isinstance(value, str):
        value.encode()
    return value
