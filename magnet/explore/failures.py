"""A model's answers as one table to look through: scores, error kinds, tags, notes, masks. Needs no widget.

    failures = read_failures("refshapes-tiny", split="testB")       # a run, a results file, or a results table
    rows = select(failures.table, Filter(kinds=("merged",)))
    failures.example(rows[0]), failures.competitors(rows[0])         # picture, truth and answer; the other candidates

What is not there is left out and named in `failures.missing`: pictures, the data, the weights.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

import magnet
from magnet import runs
from magnet.config import DataConfig
from magnet.data import read_refer
from magnet.data.dataset import read_image
from magnet.evaluate import read_results, results_path
from magnet.explore.answers import data_name, read_kinds, read_objects
from magnet.explore.notes import Notes
from magnet.metrics import rle_decode
from magnet.statistics import check_ids
from magnet.workbench.errors import truths_of
from magnet.workbench.overlay import LARGEST
from magnet.workbench.plots import Example

NEEDED = ("sent_id", "image_id", "iou", "text")


@dataclass(frozen=True, kw_only=True)
class Failures:
    """N answers.

    table: the results table, and error where the data is there. truths: the expressions in the same order, or None.
    objects: every object of the pictures (`read_objects`), or None. targets: the annotations each sentence means.
    missing: what is not there and what it costs, a sentence each.
    """

    table: pd.DataFrame
    notes: Notes
    truths: pd.DataFrame | None = None
    objects: pd.DataFrame | None = None
    targets: pd.Series | None = None
    missing: tuple[str, ...] = ()

    @property
    def pictured(self) -> np.ndarray:
        """(N,) bool: whose picture is there, damaged or not."""
        if self.truths is None:
            return np.zeros(len(self.table), bool)
        images = Path(self.truths.attrs["images"])
        there = {file: (images / file).is_file() for file in self.truths["file"].unique()}
        return self.truths["file"].map(there).to_numpy(bool)

    def with_pictures(self) -> "Failures":
        """Those answers whose pictures are there, which a network can be asked about. Raises FileNotFoundError where
        there is none."""
        seen = self.pictured
        if not seen.any():
            raise FileNotFoundError(f"a network can be asked about none of these sentences: {'; '.join(self.missing)}")
        kept = {"table": self.table, "truths": self.truths, "targets": self.targets}
        kept = {name: rows if rows is None else rows[seen].reset_index(drop=True) for name, rows in kept.items()}
        return replace(self, **kept)

    def size(self, row: int) -> tuple[int, int]:
        """Height and width in pixels of a row's picture."""
        height, width = self.table[["height", "width"]].iloc[row]
        return int(height), int(width)

    def example(self, row: int, answers: pd.DataFrame | None = None) -> Example:
        """Picture (None where it is missing or damaged), truth, answer and sentence of a row, of a large picture every
        second, third... pixel, so that at most 960 lie side by side; masks that are not there are empty. answers:
        somebody else's to the same expressions, in the same order."""
        size, answer = self.size(row), (self.table if answers is None else answers).iloc[row]
        step = self._step(row)
        prediction = rle_decode(answer["rle"], *size) if "rle" in answer else np.zeros(size, bool)
        truth = np.zeros(size, bool) if self.truths is None else rle_decode(self.truths["rle"].iloc[row], *size)
        masks = {"truth": truth[::step, ::step], "prediction": prediction[::step, ::step]}
        return Example(image=self._picture(row), **masks, text=answer["text"], iou=answer["iou"])

    def competitors(self, row: int) -> list[np.ndarray]:
        """Masks of the objects of the category meant that are not meant, as large as `example`'s; none where the data
        is missing."""
        if self.objects is None:
            return []
        truth, here = self.truths.iloc[row], self.objects
        here = here[(here["image_id"] == truth["image_id"]) & (here["category_id"] == truth["category_id"])]
        others = here[~here["ann_id"].isin(self.targets.iloc[row])]
        step = self._step(row)
        return [rle_decode(rle, *self.size(row))[::step, ::step] for rle in others["rle"]]

    def _step(self, row: int) -> int:
        return -(-max(self.size(row)) // LARGEST)

    def _picture(self, row: int) -> np.ndarray | None:
        if self.truths is None:
            return None
        file = Path(self.truths.attrs["images"]) / self.truths["file"].iloc[row]
        try:
            return np.asarray(read_image(file, *self.size(row)).reduce(self._step(row)))
        except (OSError, ValueError):
            return None


def read_failures(
    source: "pd.DataFrame | runs.Run | str | Path", expressions: pd.DataFrame | None = None, *, split: str = "val",
    protocol: str = "original", folder: Path | str | None = None, progress: bool = True,
) -> Failures:  # fmt: skip
    """The answers of a run, which is evaluated where it has not been, or those of a results table or file.

    Args:
        source: a run, its folder, name or recipe; a .parquet file that `evaluate` wrote; or a results table.
        expressions: of `read_refer`; None: the data the table names, in the run's root or the default one.
        split, protocol: of a run.
        folder: where notes and what is computed once are kept; None: explore/ in the run folder, results/explore/NAME
            for shipped weights, explore/ beside a file (not the notes of the run it may lie in), nowhere for a table.
    Raises ValueError for a table without sent_id, image_id, iou or text, with a sent_id twice, or with some that
    `expressions` lacks.
    """
    table, data, own_folder, missing = _results(source, split, protocol, progress)
    folder = Path(folder) if folder else own_folder
    if absent := [name for name in NEEDED if name not in table]:
        raise ValueError(f"the results table has no column {', '.join(absent)}; it has {', '.join(table.columns)}")
    check_ids("the results table", table["sent_id"], table["sent_id"])
    notes = Notes(folder and folder / f"notes-{data_name(table.attrs)}.json")
    missing += [*_unkept(folder), *filter(None, [notes.problem])]
    failures = Failures(table=table.reset_index(drop=True), notes=notes, missing=tuple(missing))
    try:
        found = expressions
        if expressions is None:
            truths_of(table, found := _read_data(table, data))  # the default data may be others
    except (FileNotFoundError, ValueError) as error:
        failures = replace(failures, table=_sized(failures.table))
        return _lacking(failures, f"no truth, competitors, error kinds or pictures, as the data is not there: {error}")
    return _with_data(failures, found, folder, progress)


def _results(
    source, split: str, protocol: str, progress: bool
) -> tuple[pd.DataFrame, DataConfig | None, Path | None, list[str]]:
    """The results table, the data it is on, the folder beside it, and what is missing."""
    if isinstance(source, pd.DataFrame):
        return source, None, None, []
    if str(source).endswith(".parquet"):
        path = Path(source)
        return read_results(path), None, path.parent / "explore", []
    run = runs.find(source)
    folder = run.outputs if run.is_shipped else run.folder / "explore"
    path = results_path(run, run.config.data, split, protocol)
    if path and path.exists() and not run.weights.exists():
        lacks = f"no weights in {run.folder}: the answers are those of {path.name}"
        return read_results(path), run.config.data, folder, [lacks]
    answers = magnet.evaluate(run, split=split, protocol=protocol, cached=True, progress=progress)
    return answers, run.config.data, folder, []


def _unkept(folder: Path | None) -> list[str]:
    """What is lost where there is no folder for it, or none that can be written to."""
    if folder is None:
        return ["nothing is kept: notes are lost with the kernel; give folder="]
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if os.access(there, os.W_OK):
        return []
    return [f"{there} cannot be written to: new notes are lost with the kernel; give another folder="]


def _read_data(table: pd.DataFrame, data: DataConfig | None) -> pd.DataFrame:
    facts = {key: table.attrs[key] for key in ("name", "split_by", "polygon_overlap") if key in table.attrs}
    if len(facts) < 3:
        raise ValueError("the table does not say what it is about; give expressions=")
    return read_refer(None if data is None else data.root, **facts)


def _sized(table: pd.DataFrame) -> pd.DataFrame:
    """Of a table that does not say how large its pictures are nothing can be drawn: a grey dot stands in for each."""
    if {"height", "width"} <= set(table):
        return table
    return table.drop(columns="rle", errors="ignore").assign(height=1, width=1)


def _with_data(failures: Failures, expressions: pd.DataFrame, folder: Path | None, progress: bool) -> Failures:
    table = failures.table
    truths = truths_of(table, expressions).reset_index(drop=True)
    columns = [name for name in ("height", "width", "category") if name not in table]
    failures = replace(failures, table=table.assign(**truths[columns]), truths=truths)
    return _with_kinds(_with_pictures(failures), folder, progress)


def _with_pictures(failures: Failures) -> Failures:
    files, seen = failures.truths["file"], failures.pictured
    if seen.all():
        return failures
    count = (
        f"{files[~seen].nunique():,} of {files.nunique():,} pictures are missing in {failures.truths.attrs['images']}"
    )
    return _lacking(failures, f"{count}: grey stands in for them")


def _with_kinds(failures: Failures, folder: Path | None, progress: bool) -> Failures:
    if "rle" not in failures.table:
        return _lacking(failures, "no error kinds and no answers to draw: the table has no predicted masks (rle)")
    try:
        kinds = read_kinds(failures.table, failures.truths, folder, progress)
        objects = read_objects(failures.truths, folder)
    except FileNotFoundError as error:
        return _lacking(failures, f"no error kinds and no competitors: {error}")
    table = failures.table.assign(error=kinds["error"].to_numpy())
    table.attrs = failures.table.attrs
    return replace(failures, table=table, objects=objects, targets=kinds["targets"])


def _lacking(failures: Failures, what: str) -> Failures:
    return replace(failures, missing=(*failures.missing, what))
