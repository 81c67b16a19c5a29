"""RefShapes on disk, in the REFER layout that RefCOCO uses: refs(v1).p, instances.json and images/.

magnet data shapes --size small     # about ten seconds
"""

import json
import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from magnet.refshapes.language import Expression
from magnet.refshapes.sampling import Sample, sample
from magnet.refshapes.scene import SHAPES, VERSION

NAME, SPLIT_BY = "refshapes", VERSION
JPEG_QUALITY = 95  # without chroma subsampling: grain makes PNG three times as large and as slow


class Size(NamedTuple):
    """image_size in pixels; scenes per split (two expressions each, six in train)."""

    image_size: int
    scenes: dict[str, int]


_EVALUATION = ("val", "testA", "testB", "testC", "testR")
_SPECIAL = ("no_target", "multi_target")
SIZES = {  # scene numbers are multiples of the split's kinds, so that kinds weigh equally
    "mini": Size(96, {"train": 24, "val": 18, "testA": 6, "testB": 8, "testC": 8, "testR": 8}),
    "small": Size(96, {"train": 4000, "val": 252, "testA": 240, "testB": 240, "testC": 240, "testR": 240}),
    "full": Size(224, {"train": 50_000, "val": 1800, "testA": 1800, "testB": 1800, "testC": 1800, "testR": 1800}),
}


def write_refshapes(
    root: str | Path,
    size: str = "small",
    *,
    seed: int = 0,
    image_size: int | None = None,
    special_splits: bool = False,
    num_workers: int = 1,
    progress: bool = True,
) -> Path:
    """Write a RefShapes set under root/refshapes and return that folder; the bytes do not depend on num_workers.

    `size` is "mini", "small" or "full"; `image_size` overrides its pixels; `special_splits` adds no_target and
    multi_target, as many scenes as testA. A complete set of the same make is found, not rewritten. All is written to a
    folder beside and renamed at the end. Raises ValueError for an unknown size and FileExistsError where another set
    is in the way.
    """
    if size not in SIZES:
        raise ValueError(f"RefShapes has no size {size!r}; it has {', '.join(SIZES)}")
    scenes = dict(SIZES[size].scenes)
    if special_splits:
        scenes |= dict.fromkeys(_SPECIAL, scenes["testA"])
    info = {
        "description": "RefShapes, synthetic referring expressions",
        "version": VERSION,
        "size": size,
        "seed": seed,
        "image_size": image_size or SIZES[size].image_size,
        "scenes": scenes,
    }
    folder = Path(root) / NAME
    if folder.exists():
        _check_existing(folder, info)
        print(f"{folder}: RefShapes {VERSION} {size} is already there")
        return folder
    unfinished = folder.with_name(f".{NAME}-{uuid4().hex[:8]}")
    try:
        (unfinished / "images").mkdir(parents=True)
        num_refs, num_sentences = _write(unfinished, info, num_workers, progress)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(f"{folder}: {sum(scenes.values()):,} pictures, {num_refs:,} objects, {num_sentences:,} expressions")
    return folder


def _check_existing(folder: Path, info: dict) -> None:
    path = folder / "instances.json"
    try:
        found = json.loads(path.read_text())["info"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != info:
        raise FileExistsError(
            f"{folder} holds another set (its {path.name} says {found}, wanted is {info}): "
            f"remove it, e.g. rm -r {folder}, or write to another root"
        )


def _write(folder: Path, info: dict, num_workers: int, progress: bool) -> tuple[int, int]:
    jobs = [(split, index) for split, num in info["scenes"].items() for index in range(num)]
    work = partial(_write_scene, folder / "images", info["seed"], info["image_size"])
    images, annotations, refs = [], [], []
    sent_ids = count(1)
    for image_id, (job, record) in enumerate(
        zip(jobs, tqdm(_map(work, jobs, num_workers), total=len(jobs), disable=not progress, unit="scene")), start=1
    ):
        file_name, size, objects, found = record
        first = len(annotations) + 1
        images.append({"id": image_id, "file_name": file_name, "height": size, "width": size})
        annotations += [{"id": first + k, "image_id": image_id, **thing} for k, thing in enumerate(objects)]
        for targets, group in _by_target(found):
            refs.append(_ref(len(refs) + 1, targets, group, annotations[first - 1 :], job[0], images[-1], sent_ids))
    categories = [{"id": k, "name": shape, "supercategory": "shape"} for k, shape in enumerate(SHAPES, start=1)]
    instances = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(instances, separators=(",", ":")))
    refs = json.loads(json.dumps(refs))  # a pickle tells shared strings from equal ones, and workers share fewer
    (folder / f"refs({SPLIT_BY}).p").write_bytes(pickle.dumps(refs, protocol=2))
    return len(refs), next(sent_ids) - 1


def _map(work, jobs: list, num_workers: int) -> Iterator:
    """work(job) for every job, in order."""
    if num_workers <= 1:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(num_workers) as pool:
        yield from pool.map(work, jobs, chunksize=16)


def _write_scene(folder: Path, seed: int, image_size: int, job: tuple[str, int]) -> tuple:
    """Draw a scene, save its picture; its file name, size, objects as COCO annotations, and expressions."""
    split, index = job
    drawn = sample(seed, index, split, image_size)
    file_name = f"{split}_{index:06d}.jpg"
    Image.fromarray(drawn.image).save(folder / file_name, quality=JPEG_QUALITY, subsampling=0)
    return file_name, image_size, _annotations(drawn), drawn.expressions


def _annotations(drawn: Sample) -> list[dict]:
    codes = coco_mask.encode(np.asfortranarray(drawn.masks.transpose(1, 2, 0), np.uint8))
    areas, boxes = coco_mask.area(codes).tolist(), coco_mask.toBbox(codes).tolist()
    return [
        {
            "category_id": SHAPES.index(thing.shape) + 1,
            "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
            "area": area,
            "bbox": box,
            "iscrowd": 0,
            "attributes": {"colour": thing.colour, "texture": thing.texture, "size": thing.size},
        }
        for thing, code, area, box in zip(drawn.scene.objects, codes, areas, boxes)
    ]


def _by_target(found: list[Expression]) -> list[tuple[tuple[int, ...], list[Expression]]]:
    groups: dict[tuple[int, ...], list[Expression]] = {}
    for one in found:
        groups.setdefault(one.targets, []).append(one)
    return sorted(groups.items())


def _ref(
    ref_id: int, targets: tuple, group: list[Expression], things: list[dict], split: str, image: dict, sent_ids: count
) -> dict:
    """A ref: one object and its sentences; none or several objects as gRefCOCO writes them."""
    chosen = [things[k] for k in targets]
    ann_id, category_id = ([thing[key] for thing in chosen] or [-1] for key in ("id", "category_id"))
    if split not in _SPECIAL:
        (ann_id,), (category_id,) = ann_id, category_id
    sentences = [_sentence(one, sent_id) for one, sent_id in zip(group, sent_ids)]
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": category_id,
        "image_id": image["id"],
        "file_name": image["file_name"],
        "split": split,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
        **({"no_target": not targets} if split in _SPECIAL else {}),
    }


def _sentence(one: Expression, sent_id: int) -> dict:
    """`program` and `other_reading` are JSON; the latter is empty but for ambiguous sentences."""
    sent = one.text.lower().replace(",", "")
    return {
        "sent_id": sent_id,
        "raw": one.text,
        "sent": sent,
        "tokens": sent.split(),
        "kind": one.kind,
        "hops": one.hops,
        "distractors": one.distractors,
        "program": json.dumps(one.program),
        "ambiguous": one.ambiguous,
        "other_reading": json.dumps(one.other_reading) if one.other_reading else "",
    }
