"""Exports of a selection, read again by the tools they are for."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ASSETS
from PIL import Image
from pycocotools.coco import COCO

from magnet.data import read_refer, select_split
from magnet.explore import export
from magnet.explore.failures import read_failures
from magnet.refshapes.baselines import baseline_table


@pytest.fixture(scope="module")
def failures():
    expressions = select_split(read_refer(ASSETS), "val")
    return read_failures(baseline_table("largest", expressions), expressions)


def test_a_csv_holds_the_selection_in_its_order_with_notes(failures, tmp_path):
    sent_id = int(failures.table["sent_id"].iloc[3])
    failures.notes.write(sent_id, 'a "large" one,\nagain', ["size", "ask"])
    table = pd.read_csv(export.write_csv(failures, np.array([5, 3]), tmp_path / "some.csv"))
    assert table["sent_id"].tolist() == failures.table["sent_id"].iloc[[5, 3]].tolist()
    assert table["note"].tolist()[1] == 'a "large" one,\nagain' and table["note_tags"].tolist()[1] == "size; ask"
    assert "rle" not in table and table["iou"].to_numpy() == pytest.approx(failures.table["iou"].iloc[[5, 3]])


def test_a_png_shows_at_most_24(failures, tmp_path):
    few = Image.open(export.write_png(failures, np.arange(4), tmp_path / "few.png")).size
    many = Image.open(export.write_png(failures, np.arange(30), tmp_path / "many.png")).size
    assert many[1] == pytest.approx(6 * few[1], rel=0.01) and many[0] == few[0]
    with pytest.raises(ValueError, match="nothing to draw"):
        export.write_png(failures, np.arange(0), tmp_path / "none.png")


def test_coco_files_are_read_by_pycocotools_and_hold_the_masks(failures, tmp_path):
    rows = np.array([7, 2, 11])
    folder = export.write_coco(failures, rows, tmp_path / "coco")
    truths = COCO(folder / "truths.json")
    predictions = truths.loadRes(str(folder / "predictions.json"))
    for row in rows:
        example, sent_id = failures.example(row), int(failures.table["sent_id"].iloc[row])
        for found, mask in ((truths, example.truth), (predictions, example.prediction)):
            (one,) = found.loadAnns(found.getAnnIds(imgIds=[sent_id]))
            assert (found.annToMask(one).astype(bool) == mask).all()
        assert truths.loadImgs([sent_id])[0]["caption"] == example.text
    assert [one["id"] for one in json.loads((folder / "truths.json").read_text())["images"]] == [
        *failures.table["sent_id"].iloc[rows]
    ]


def test_a_table_alone_cannot_become_coco_files(failures, tmp_path, monkeypatch):
    monkeypatch.setenv("MAGNET_DATA", str(tmp_path))
    alone = read_failures(failures.table.drop(columns="error"))
    for write in (lambda: export.write_coco(alone, np.arange(2), tmp_path / "coco"),):
        with pytest.raises(ValueError, match="need truths and predictions: no truth"):
            write()
    assert not (tmp_path / "coco").exists()


def test_without_fiftyone_the_error_says_what_to_do(failures, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install fiftyone, or export COCO files"):
        export.to_fiftyone(failures, np.arange(2))


def test_fiftyone_gets_a_sample_for_every_expression(failures, monkeypatch):
    class Dataset(list):
        def __init__(self, name, overwrite):
            self.name = name

        add_samples = list.extend

    parts = {"Sample": lambda **fields: fields, "Segmentation": lambda mask: mask, "Dataset": Dataset}
    monkeypatch.setitem(sys.modules, "fiftyone", SimpleNamespace(**parts))
    monkeypatch.setattr(export, "find_spec", lambda _: True)
    dataset = export.to_fiftyone(failures, np.array([4, 1]), "mine")
    assert dataset.name == "mine" and len(dataset) == 2
    assert dataset[1]["text"] == failures.table["text"].iloc[1] and dataset[1]["error"] == failures.table["error"][1]
    assert (dataset[0]["prediction"] == failures.example(4).prediction).all()
