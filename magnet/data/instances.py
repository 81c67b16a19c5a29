"""Every object that instances.json knows on a picture, and which of them each sentence means."""

from pathlib import Path

import pandas as pd

from magnet.data.files import find_sources, load_instances, load_refs
from magnet.data.union import PARTS


def read_instances(table: pd.DataFrame) -> dict[int, list[dict]]:
    """image_id -> its annotations, for every picture of `table` (any rows of what `read_refer` gives).

    Annotations are as their file has them: id, image_id, category_id, segmentation (polygons or RLE), iscrowd and
    RefShapes' attributes where there are any. A picture without an object has an empty list. Of the union of the three
    sets, an object that several of them know comes once.
    Raises FileNotFoundError where instances.json is gone, ValueError where it is damaged.
    """
    found: dict[int, dict[int, dict]] = {int(image_id): {} for image_id in table["image_id"].unique()}
    files = [
        file for source in _sources(table) for file in source if file.suffix == ".json" and "refs(" not in file.name
    ]
    for file in files:
        for thing in load_instances(file, lambda record: record.get("image_id") in found)["annotations"]:
            if thing["image_id"] in found:
                found[thing["image_id"]][thing["id"]] = thing
    return {image_id: list(things.values()) for image_id, things in found.items()}


def read_targets(table: pd.DataFrame) -> list[list[int]]:
    """For each row of `table` the ids of the annotations meant: one, in gRefCOCO's form several, or none."""
    listed: dict[int, list[int]] = {}
    if (table["num_targets"] > 1).any():  # the table keeps the first; only a refs file can name several
        listed = {ref["ref_id"]: ref["ann_id"] for (refs, _) in _sources(table) for ref in load_refs(refs)}
    rows = zip(table["ref_id"], table["ann_id"].tolist(), table["num_targets"])
    return [listed[ref_id] if num > 1 else [ann_id][:num] for ref_id, ann_id, num in rows]


def _sources(table: pd.DataFrame) -> list[tuple[Path, ...]]:
    """The files behind a table, as `find_sources` gives them."""
    root, name = Path(table.attrs["root"]), table.attrs["name"]
    parts = PARTS if name == "union" else {name: table.attrs["split_by"]}
    return [find_sources(root, *part) for part in parts.items()]
