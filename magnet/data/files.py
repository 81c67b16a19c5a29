"""The files of a data set in REFER's layout: found, read and checked; nothing in them can run code."""

import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path

from magnet.data.family import SPLIT_BY

INSTANCES = {"images": ["id"], "annotations": ["id", "image_id", "category_id"], "categories": ["id"]}


def find_sources(root: Path, name: str, split_by: str) -> tuple[Path, ...]:
    """The refs file and instances.json, or for split_by "coco" every <split>.json; an error names what is missing, what
    exists and what helps."""
    folder, instances = root / name, root / name / "instances.json"
    wanted = folder / f"refs({split_by}).p"
    if not folder.is_dir():
        found = sorted(path.parent.name for path in root.glob("*/instances.json"))
        raise FileNotFoundError(
            f"{folder} does not exist; {root} holds {', '.join(found) or 'no data set'}; {_remedy(wanted)}"
        )
    if split_by == "coco" and (files := sorted(folder.glob("*.json"))):
        return tuple(files)
    if refs := find_refs(folder, split_by):
        if instances.is_file():
            return refs, instances
        raise FileNotFoundError(f"{instances} does not exist; {_remedy(instances)}")
    found = sorted({split_by_of(path) for path in folder.glob("*refs(*).*")})
    raise ValueError(f"no {wanted}; split_by can be {', '.join(found) or 'nothing yet'}; {_remedy(wanted)}")


def find_refs(folder: Path, split_by: str) -> Path | None:
    """The refs file of a data set, in any of its forms, if it is there."""
    names = (f"{start}({split_by}){suffix}" for start in ("refs", "grefs") for suffix in (".p", ".json"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def split_by_of(refs: Path) -> str:
    """refs(unc).p -> unc."""
    return refs.stem.partition("(")[2].removesuffix(")")


def _remedy(file: Path) -> str:
    """What helps where this file of a data set is missing or damaged: the command that brings it, if there is one."""
    root, name = file.parent.parent, file.parent.name
    published = SPLIT_BY.get(name, ())
    if split_by_of(file) in published or (published and file.name == "instances.json"):
        return f"`magnet data download {name} --root {root}` fetches it"
    if name == "refshapes":
        return f"`magnet data shapes --root {root}` makes it"
    return "data/README.md says where to get it"


class _PlainUnpickler(pickle.Unpickler):
    """Lists, dicts, numbers and strings: a pickle that would import anything is refused before it does."""

    def find_class(self, module: str, name: str):
        raise ImportError(f"it wants to import {module}.{name}")


def load_refs(file: Path) -> list[dict]:
    """The list in a refs file, a pickle (of Python 2 or 3) or JSON; ValueError for anything else."""
    try:
        with file.open("rb") as stream:
            is_json = file.suffix == ".json"
            refs = json.load(stream) if is_json else _PlainUnpickler(stream, encoding="latin1").load()
    except ImportError as error:
        raise ValueError(f"{file} is refused: {error}; nothing of it was run; {_remedy(file)}") from error
    except OSError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        raise ValueError(f"{file} is damaged or cut short ({error}); {_remedy(file)}") from error
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise ValueError(f"{file} holds no list of refs; {_remedy(file)}")
    return refs


def load_sources(sources: tuple[Path, ...]) -> tuple[list[dict], dict[str, list[dict]]]:
    """Refs and instances of what `find_sources` found."""
    if is_coco(sources):
        return _load_coco(sources)
    refs = load_refs(sources[0])
    ann_ids = mentioned(refs)
    return refs, load_instances(sources[1], lambda record: record.get("id") in ann_ids)


def mentioned(refs: list[dict]) -> set[int]:
    """The ids of all annotations that `refs` name, whatever else is wrong with them."""
    listed = (ref.get("ann_id") for ref in refs)
    return {one for some in listed for one in (some if isinstance(some, list) else [some]) if isinstance(one, int)}


def is_coco(sources: tuple[Path, ...]) -> bool:
    """Whether `sources` are COCO files, one a split, rather than refs with their instances."""
    return sources[0].stem.partition("(")[0] not in ("refs", "grefs")


def _load_coco(files: tuple[Path, ...]) -> tuple[list[dict], dict[str, list[dict]]]:
    """COCO files, one a split, whose annotations carry `expression`, `expressions` or both, in REFER's form.

    ref_id and sent_id are counted through. Raises ValueError where an id means something else in another file.
    """
    refs, merged, number = [], {key: {} for key in INSTANCES}, itertools.count()
    for file in files:
        instances = load_instances(file)
        for key, records in merged.items():
            _merge(instances[key], records, f"{file}: {key}", files)
        for record in instances["annotations"]:
            if "expression" in record or "expressions" in record:
                sentences = [{"sent_id": next(number), "raw": text} for text in _texts(record)]
                facts = {"ann_id": record["id"], "image_id": record["image_id"], "split": file.stem}
                refs.append({"ref_id": len(refs), **facts, "sentences": sentences})
    return refs, {key: list(records.values()) for key, records in merged.items()}


def _merge(new: list[dict], records: dict[int, dict], where: str, files: tuple[Path, ...]) -> None:
    for record in new:
        if records.setdefault(record["id"], record) != record:
            names = ", ".join(file.name for file in files)
            raise ValueError(
                f"{where}: id {record['id']} is something else in a file before it; with split_by coco every .json of "
                f"the folder is read as a split, here {names}: move away what is none, as a left-over instances.json"
            )


def _texts(annotation: dict) -> list:
    """All that is said of an annotation; whether it is text is seen where every sentence is."""
    said = [annotation[field] for field in ("expression", "expressions") if field in annotation]
    return [text for some in said for text in (some if isinstance(some, list) else [some])]


def load_instances(file: Path, needed: Callable[[dict], bool] = lambda record: True) -> dict[str, list[dict]]:
    """COCO instances: images, annotations, categories; only annotations that are `needed` keep their segmentation.

    Raises ValueError for a file cut short or of another form.
    """

    def forget_segmentation(record: dict) -> dict:  # while parsing: all of them would take gigabytes
        if "segmentation" in record and not needed(record):
            del record["segmentation"]
        return record

    try:
        instances = json.loads(file.read_text(encoding="utf-8"), object_hook=forget_segmentation)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged or cut short ({error}); {_remedy(file)}") from error
    for key, fields in INSTANCES.items():
        records = instances.get(key) if isinstance(instances, dict) else None
        if not isinstance(records, list):
            raise ValueError(f"{file} has no list {key!r}: not COCO instances; {_remedy(file)}")
        for record in records:
            if not isinstance(record, dict) or not all(type(record.get(field)) is int for field in fields):
                raise ValueError(
                    f"{file}: {key}: {str(record)[:80]} lacks whole numbers {', '.join(fields)}; {_remedy(file)}"
                )
    return instances
