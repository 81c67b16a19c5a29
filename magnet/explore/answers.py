"""What looking at answers needs from the masks of all objects, computed once and kept in a file beside the run.

kinds = read_kinds(results, expressions, Path("results/runs/NAME/explore"))     # seconds, then no time
objects = read_objects(expressions, Path("results/runs/NAME/explore"))          # competitors of every picture
"""

import hashlib
import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd

from magnet.data.instances import read_instances, read_targets
from magnet.metrics import find_protocol
from magnet.runs import atomic_write
from magnet.workbench.errors import error_kinds, object_masks

FORMAT = 1  # of both files: raise it when a column or its meaning changes
DECIDES = ["sent_id", "iou", "rle"]  # the columns of a results table that an error kind depends on


def read_kinds(
    results: pd.DataFrame, expressions: pd.DataFrame, folder: Path | None, progress: bool = True
) -> pd.DataFrame:
    """error (one of errors.KINDS) and targets (ids of the annotations meant): a row for each of `results`.

    Args: expressions: those rows of `read_refer` that `results` answers, in its order; folder: where the table is kept,
        or None. It is made anew where answers, data or protocol have changed.
    Raises as `error_kinds` does.
    """
    protocol = find_protocol(results.attrs.get("protocol", "original")).name

    def make() -> pd.DataFrame:
        kinds = error_kinds(results, expressions, progress)
        return pd.DataFrame({"error": kinds.tolist(), "targets": read_targets(expressions)})

    return _kept(folder, f"kinds-{_name(expressions)}-{protocol}", _stamp(expressions, results[DECIDES]), make)


def read_objects(expressions: pd.DataFrame, folder: Path | None) -> pd.DataFrame:
    """Every object on the pictures of some expressions: image_id, ann_id, category_id and rle (compressed counts).

    Raises FileNotFoundError where instances.json is gone.
    """

    def make() -> pd.DataFrame:
        instances, rows = read_instances(expressions), expressions.drop_duplicates("image_id")
        found = [
            (image_id, thing["id"], thing["category_id"], masks[thing["id"]]["counts"].decode("ascii"))
            for image_id, height, width in rows[["image_id", "height", "width"]].itertuples(index=False, name=None)
            for masks in [object_masks(instances[image_id], height, width)]
            for thing in instances[image_id]
            if thing["id"] in masks
        ]
        return pd.DataFrame(found, columns=["image_id", "ann_id", "category_id", "rle"])

    return _kept(folder, f"objects-{_name(expressions)}", _stamp(expressions, expressions[["image_id"]]), make)


def data_name(attrs: dict) -> str:
    """refcoco_unc-val: what tells the files of one data set and split from those of another."""
    return f"{attrs.get('name', 'table')}_{attrs.get('split_by', '')}-{attrs.get('split', 'all')}"


def _name(expressions: pd.DataFrame) -> str:
    splits = "+".join(sorted(expressions["split"].unique()))
    return data_name(expressions.attrs | {"split": splits})


def _stamp(expressions: pd.DataFrame, decides: pd.DataFrame) -> str:
    """Changes with the data's files and with what is in the columns that decide."""
    digest = hashlib.sha256(pd.util.hash_pandas_object(decides, index=False).to_numpy().tobytes()).hexdigest()
    return json.dumps([FORMAT, expressions.attrs.get("stamp"), digest])


def _kept(folder: Path | None, name: str, stamp: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    file = folder and folder / f"{name}.parquet"
    if file and file.is_file():
        try:
            table = pd.read_parquet(file)
            if table.attrs.get("stamp") == stamp:
                return table
        except Exception as error:  # damaged parquet raises nearly anything
            warnings.warn(f"{file} is damaged ({error}) and is made anew", stacklevel=3)
    table = make()
    table.attrs = {"stamp": stamp}
    if file:
        with suppress(PermissionError):  # `read_failures` says so
            atomic_write(file, table.to_parquet)
    return table
