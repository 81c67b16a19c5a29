"""A selection of answers for other tools: a table, a picture, COCO files, FiftyOne.

write_csv(failures, rows, "failures.csv")
write_png(failures, rows, "failures.png")              # the first 24
write_coco(failures, rows, "failures")                 # a folder: truths.json, predictions.json
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from pycocotools import mask as coco

from magnet.explore.failures import Failures
from magnet.explore.notes import Note
from magnet.runs import atomic_write, write_json
from magnet.workbench.plots import prediction_grid

MOST_PICTURES = 24


def write_csv(failures: Failures, rows: np.ndarray, path: Path | str) -> Path:
    """The rows of the table without masks, and what was noted: note, note_tags (separated by semicolons)."""
    table = failures.table.iloc[rows].drop(columns="rle", errors="ignore")
    notes = [failures.notes.get(sent_id, Note()) for sent_id in table["sent_id"]]
    table = table.assign(note=[note.text for note in notes], note_tags=["; ".join(note.tags) for note in notes])
    return atomic_write(path, lambda file: table.to_csv(file, index=False))


def write_png(failures: Failures, rows: np.ndarray, path: Path | str) -> Path:
    """The first 24 rows as one picture; ValueError where there is none."""
    if not len(rows):
        raise ValueError("no row is selected: there is nothing to draw")
    figure = prediction_grid([failures.example(row) for row in rows[:MOST_PICTURES]])
    return atomic_write(path, lambda file: figure.savefig(file, format="png"))


def write_coco(failures: Failures, rows: np.ndarray, folder: Path | str) -> Path:
    """truths.json (COCO instances) and predictions.json (COCO results), masks as run lengths.

    Every expression is an image of its own, with its sent_id as id: an answer belongs to a sentence, not to a picture.
    A prediction has the category of its truth and score 1; what is empty is left out.
    Raises ValueError where truths or predictions are missing.
    """
    if failures.truths is None or "rle" not in failures.table:
        raise ValueError(f"COCO files need truths and predictions: {failures.missing[-1]}")
    truths, folder = failures.truths.iloc[rows], Path(folder)
    columns = ["sent_id", "file", "height", "width", "text"]
    images = [
        {"id": sent_id, "file_name": file, "height": height, "width": width, "caption": text}
        for sent_id, file, height, width, text in truths[columns].itertuples(index=False, name=None)
    ]
    categories = truths[truths["num_targets"] > 0].drop_duplicates("category_id")
    named = [{"id": number, "name": name} for number, name in categories[["category_id", "category"]].to_numpy()]
    annotations = [record | {"iscrowd": 0} for record in _records(truths, truths["rle"])]
    predictions = [record | {"score": 1.0} for record in _records(truths, failures.table["rle"].iloc[rows])]
    write_json(folder / "truths.json", {"images": images, "categories": named, "annotations": annotations})
    write_json(folder / "predictions.json", predictions)
    return folder


def to_fiftyone(failures: Failures, rows: np.ndarray, name: str = "failures"):
    """A FiftyOne dataset, one sample an expression: text, iou, error, note, tags, truth and prediction.

    Raises ValueError where FiftyOne is not installed or the data is missing.
    """
    if not find_spec("fiftyone"):
        raise ValueError("FiftyOne is not installed; pip install fiftyone, or export COCO files, which it reads")
    if failures.truths is None:
        raise ValueError(f"FiftyOne needs pictures and truths: {failures.missing[-1]}")
    import fiftyone

    dataset = fiftyone.Dataset(name, overwrite=True)
    dataset.add_samples([_sample(fiftyone, failures, row) for row in rows])
    return dataset


def _records(truths: pd.DataFrame, rles: pd.Series) -> list[dict]:
    """COCO annotations of the masks that have a pixel."""
    found = []
    columns = truths[["sent_id", "category_id", "height", "width"]].itertuples(index=False, name=None)
    for (sent_id, category_id, height, width), counts in zip(columns, rles):
        mask = {"size": [height, width], "counts": counts}
        if area := int(coco.area(mask)):
            ids = {"id": len(found) + 1, "image_id": sent_id, "category_id": category_id}
            found.append(ids | {"segmentation": mask, "area": area, "bbox": coco.toBbox(mask).tolist()})
    return found


def _sample(fiftyone, failures: Failures, row: int):
    example, answer = failures.example(row), failures.table.iloc[row]
    note = failures.notes.get(answer["sent_id"], Note())
    masks = {"truth": example.truth, "prediction": example.prediction}
    return fiftyone.Sample(
        filepath=str(Path(failures.truths.attrs["images"]) / failures.truths["file"].iloc[row]),
        text=example.text, iou=float(example.iou), error=answer.get("error"), note=note.text, tags=list(note.tags),
        **{name: fiftyone.Segmentation(mask=mask.astype(np.uint8)) for name, mask in masks.items()},
    )  # fmt: skip
