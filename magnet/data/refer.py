"""REFER files to the expression table: one row per expression, with its object's mask as COCO run lengths.

    table = read_refer("data", "refcoco", "unc")        # or "refshapes", "v1", or your own data in this form

reads <root>/<name>/refs(<split_by>).p (or .json; gRefCOCO's grefs(<split_by>).json) and <root>/<name>/instances.json;
images lie in <root>/<name>/images or in <root>/images/train2014. A downloaded pickle cannot run code: every global in
it is refused before it is imported.
"""

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from pycocotools import mask as coco

from magnet.data import fields
from magnet.data.files import find_sources, is_coco, load_sources, mentioned
from magnet.data.masks import object_rle
from magnet.data.tags import add_tags
from magnet.runs import atomic_write

FORMAT = 4  # of the cached table: raise it when a column or its meaning changes
NUM_SHOWN = 5  # problems spelled out in an error
COLUMNS = ("sent_id", "ref_id", "ann_id", "image_id", "category_id", "category", "split", "text", "file",
           "height", "width", "rle", "area", "num_targets", "num_same_category")  # fmt: skip
RESULTS = ("I", "U", "iou", "num_words")  # what later columns are called
SENTENCE_FIELDS = {"sent_id", "raw", "sent", "tokens"}  # anything else a sentence carries becomes a column


def read_refer(
    root: str | Path | None = None,
    name: str = "refshapes",
    split_by: str = "v1",
    polygon_overlap: str = "hole",
    on_problem: str = "raise",
    cache: bool = True,
) -> pd.DataFrame:
    """The expression table of one data set, all splits.

    root: data folder; None is $MAGNET_DATA, or data/. name: "union" is the three training sets together, see union.py.
    split_by: "coco" reads COCO files with an expression in their annotations, <root>/<name>/<split>.json.
    polygon_overlap: pixels that several polygons of one object cover are left out ("hole": what the REFER tool does and
    published numbers need) or kept ("union").
    on_problem: "raise" a ValueError that shows the first problems; "list" drops those rows, warns, and leaves the list
    in table.attrs["problems"]. cache: keep the table beside its source; it is rebuilt when the source changes.

    Columns: sent_id, ref_id, ann_id, image_id, category_id, height, width, area (int64; pixels), category, split, text,
    file, rle (str; compressed counts), num_targets (int64), the tags (tags.py), and whatever else the sentences carry.
    In gRefCOCO's form a sentence may speak of several objects, which make one mask, or of none: then area is 0. ann_id
    and category_id are the first object's, or -1.
    attrs: root, name, split_by, refs (their file), polygon_overlap, images (their folder), problems, notes (oddities
    that cost no row), held_out (images that only records left out show outside of train: mended, they will be scored).
    """
    _one_of("polygon_overlap", polygon_overlap, ("hole", "union"))
    _one_of("on_problem", on_problem, ("raise", "list"))
    root = data_root(root)
    if name == "union":
        from magnet.data.union import UNION_SPLIT_BY, read_union  # here: it is made of what this function reads

        _one_of("split_by", split_by, (UNION_SPLIT_BY,))
        return read_union(root, polygon_overlap, on_problem, cache)
    sources = find_sources(root, name, split_by)
    file, stamp = _cache_file(sources[0], split_by, polygon_overlap), _stamp(sources)
    table = _read_cache(file, stamp) if cache else None
    if table is None:
        table = _build(sources, polygon_overlap)
        table.attrs["stamp"] = stamp
        if cache:
            _write_cache(table, file)
    _report(table, on_problem)
    own_images = root / name / "images"
    images = own_images if own_images.is_dir() else root / "images" / "train2014"
    facts = {"root": str(root), "name": name, "split_by": split_by, "refs": str(sources[0]), "images": str(images)}
    table.attrs |= facts | {"polygon_overlap": polygon_overlap}
    return table


def data_root(root: str | Path | None = None) -> Path:
    """`root`, or $MAGNET_DATA, or data/."""
    return Path(root or os.environ.get("MAGNET_DATA", "data"))


def splits(table: pd.DataFrame) -> dict[str, int]:
    """Number of expressions in each split, in the table's order."""
    return table.groupby("split", sort=False).size().to_dict()


def select_split(table: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of one split, renumbered; ValueError lists the splits there are."""
    rows = table[table["split"] == split]
    if rows.empty:
        existing = ", ".join(f"{name} ({count} expressions)" for name, count in splits(table).items())
        raise ValueError(f"no split {split!r} in {table.attrs.get('name', 'the table')}; there are {existing}")
    return rows.reset_index(drop=True)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: one of {', '.join(allowed)}")


def _report(table: pd.DataFrame, on_problem: str) -> None:
    problems, notes = table.attrs["problems"], table.attrs["notes"]
    if problems and on_problem == "raise":
        shown = "\n  ".join(problems[:NUM_SHOWN])
        raise ValueError(
            f"{len(problems)} problems, the first of them:\n  {shown}\n"
            'mend or refetch the files, or read_refer(..., on_problem="list") to go on without these records'
        )
    for what, found in (("records left out", problems), ("records with an oddity, kept", notes)):
        if found:
            warnings.warn(f"{len(found)} {what}, the first: {found[0]}", stacklevel=3)


# The cache ------------------------------------------------------------------------------------------------------------


def _stamp(sources: tuple[Path, ...]) -> str:
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    return json.dumps({"format": FORMAT, "sources": facts})


def _cache_file(source: Path, split_by: str, polygon_overlap: str) -> Path:
    """Beside the source, or in the user's cache folder where nobody is meant to write there."""
    folder = source.parent / ".cache"
    if not (source.parent.stat().st_mode & 0o222 and os.access(source.parent, os.W_OK)):
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = user / "magnet" / sha256(str(source.parent.resolve()).encode()).hexdigest()[:12]
    return folder / f"{split_by}-{polygon_overlap}.parquet"


def _read_cache(file: Path, stamp: str) -> pd.DataFrame | None:
    if not file.is_file():
        return None
    try:
        table = pd.read_parquet(file, page_checksum_verification=True)
    except Exception as error:  # damaged parquet raises nearly anything
        warnings.warn(f"{file} is damaged ({error}) and is made anew", stacklevel=3)
        return None
    return table if table.attrs.get("stamp") == stamp else None


def _write_cache(table: pd.DataFrame, file: Path) -> None:
    try:
        atomic_write(file, lambda temporary: table.to_parquet(temporary, index=False, write_page_checksum=True))
    except (OSError, ValueError, TypeError) as error:  # the disk, or a field of mixed types
        warnings.warn(f"the table is not cached: {error}", stacklevel=3)


# The table ------------------------------------------------------------------------------------------------------------


def _build(sources: tuple[Path, ...], polygon_overlap: str) -> pd.DataFrame:
    join = _Join(sources, polygon_overlap)
    table = _joined(*join.rows())
    shown = set(table.loc[table["split"] != "train", "image_id"])
    attrs = {"problems": join.problems, "notes": [*dict.fromkeys(join.notes)]}  # a note once, though refs share objects
    attrs["held_out"] = sorted(join.held_out() - shown)
    del join  # what was read is gone before the tags grow
    table = add_tags(table) if len(table) else table
    table.attrs |= attrs
    return table


@contextmanager
def _collected(problems: list[str], where: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        problems.append(f"{where}: no field {error}")
    except (ValueError, TypeError, OverflowError) as error:
        problems.append(f"{where}: {error}")


class _Join:
    """Refs with their annotations and images; what does not fit is collected."""

    def __init__(self, sources: tuple[Path, ...], polygon_overlap: str):
        self.is_coco, self.refs_file = is_coco(sources), sources[0]
        self.instances_file = sources[0].parent if self.is_coco else sources[1]
        self.polygon_overlap = polygon_overlap
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.refs, instances = load_sources(sources)
        self.images, self.annotations, self.categories = (
            self._by_id(instances[key], key) for key in ("images", "annotations", "categories")
        )
        self.num_same_category = Counter((a["image_id"], a["category_id"]) for a in instances["annotations"])
        self.ref_ids: set[int] = set()
        self.sent_ids: set[int] = set()

    def _by_id(self, records: list[dict], key: str) -> dict[int, dict]:
        counts = Counter(record["id"] for record in records)
        for repeated in [value for value, count in counts.items() if count > 1]:
            self.problems.append(f"{self.instances_file}: {key}: id {repeated} comes more than once; none is used")
        return {record["id"]: record for record in records if counts[record["id"]] == 1}

    def rows(self) -> tuple[list[dict], list[dict]]:
        """Objects, and sentences whose "object" is a position in the first list."""
        objects, sentences = [], []
        for ref in self.refs:
            where = self._where(ref)
            with _collected(self.problems, where):
                objects.append(self._object(ref))
                for sentence in fields.sentences(ref):
                    with _collected(self.problems, f"{where}, sentence {sentence.get('sent_id')}"):
                        sentences.append(self._sentence(sentence) | {"object": len(objects) - 1})
        if not sentences:
            self.problems.append(f"{self.refs_file}: no usable ref in it")
        return objects, sentences

    def _where(self, ref: dict) -> str:
        if self.is_coco:  # its refs are counted here: nobody could look their numbers up
            return f"{self.refs_file.with_name(ref['split'] + '.json')}: annotation {ref['ann_id']}"
        return f"{self.refs_file}: ref {ref.get('ref_id')}"

    def held_out(self) -> set[int]:
        """Images that any ref outside of train speaks of, by itself or by its annotations, usable or not."""
        refs = [ref for ref in self.refs if ref.get("split") != "train"]
        images = [ref.get("image_id") for ref in refs]
        images += [self.annotations[one]["image_id"] for one in mentioned(refs) if one in self.annotations]
        return {image_id for image_id in images if isinstance(image_id, int)}

    def _object(self, ref: dict) -> dict:
        """What `ref` speaks of: one object; in gRefCOCO's form several, or none, in one mask."""
        fields.once("ref_id", fields.integers(ref, "ref_id")["ref_id"], self.ref_ids)
        targets = [self._annotation(ann_id, ref["image_id"]) for ann_id in fields.targets(ref)]
        image = self._found(self.images, "image", fields.integers(ref, "image_id")["image_id"])
        size = fields.integers(image, "height", "width")
        rle = self._mask(targets, size)
        names = (fields.string(self._found(self.categories, "category", a["category_id"]), "name") for a in targets)
        first = targets[0] if targets else {"id": fields.NOTHING, "category_id": fields.NOTHING}
        return fields.integers(ref, "ref_id", "image_id") | size | {
            "ann_id": first["id"], "category_id": first["category_id"], "num_targets": len(targets),
            "category": ", ".join(dict.fromkeys(names)), "split": fields.string(ref, "split"),
            "file": fields.string(image, "file_name"),
            "rle": rle["counts"].decode("ascii"), "area": int(coco.area(rle)),
            "num_same_category": self.num_same_category[ref["image_id"], first["category_id"]],
        }  # fmt: skip

    def _annotation(self, ann_id: int, image_id: int) -> dict:
        annotation = self._found(self.annotations, "annotation", ann_id)
        found = fields.integers(annotation, "image_id", "category_id")["image_id"]
        if image_id != found:
            raise ValueError(f"image_id is {image_id!r}, but its annotation {ann_id} lies on image {found}")
        return annotation

    def _mask(self, targets: list[dict], size: dict[str, int]) -> dict:
        rles = []
        for annotation in targets:
            segmentation = annotation["segmentation"]
            rle, oddities = object_rle(segmentation, **size, polygon_overlap=self.polygon_overlap)
            rles.append(rle)
            self.notes += [f"{self.instances_file}: annotation {annotation['id']}: {what}" for what in oddities]
        if len(rles) == 1:
            return rles[0]
        return coco.merge(rles) if rles else coco.encode(np.zeros((size["height"], size["width"]), np.uint8, order="F"))

    def _found(self, records: dict[int, dict], kind: str, key: int) -> dict:
        if key not in records:
            raise ValueError(f"{kind} {key} is not in {self.instances_file.name}")
        return records[key]

    def _sentence(self, sentence: dict) -> dict:
        ids = fields.integers(sentence, "sent_id")
        fields.once("sent_id", ids["sent_id"], self.sent_ids)
        text = fields.string(sentence, "raw" if "raw" in sentence else "sent")
        if not text.strip():
            raise ValueError(f"the expression is empty: {text!r}")
        if taken := sentence.keys() & {*COLUMNS, *RESULTS} - {"sent_id"}:
            raise ValueError(f"the names {', '.join(sorted(taken))} are the table's own; rename these fields")
        extra = {key: fields.plain(value) for key, value in sentence.items() if key not in SENTENCE_FIELDS}
        return ids | {"text": text} | extra


def _joined(objects: list[dict], sentences: list[dict]) -> pd.DataFrame:
    if not sentences:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.DataFrame(sentences).join(pd.DataFrame(objects), on="object").drop(columns="object")
    return table[[*COLUMNS, *(column for column in table if column not in COLUMNS)]]
