"""A data set of two objects in REFER files, to be damaged in one place per test."""

import json
import pickle
from pathlib import Path

import pandas as pd

from magnet.data import read_refer

HEIGHT, WIDTH = 40, 60


def square(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


class Toy:
    """Two objects with three sentences on one image."""

    def __init__(self, root: Path):
        self.root, self.folder = root, root / "toy"
        self.images = [{"id": 7, "file_name": "seven.jpg", "height": HEIGHT, "width": WIDTH}]
        self.annotations = [
            {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [square(5, 5, 15, 25)]},
            {"id": 2, "image_id": 7, "category_id": 3, "segmentation": [square(40, 10, 60, 30)]},
        ]
        self.categories = [{"id": 3, "name": "cup"}]
        self.refs = [
            {"ref_id": 0, "ann_id": 1, "image_id": 7, "category_id": 3, "split": "train", "file_name": "x_1.jpg",
             "sent_ids": [0, 1], "sentences": [{"sent_id": 0, "raw": "Left cup", "sent": "left cup", "tokens": []},
                                               {"sent_id": 1, "sent": "the small one"}]},
            {"ref_id": 1, "ann_id": 2, "image_id": 7, "category_id": 3, "split": "val", "file_name": "x_2.jpg",
             "sent_ids": [2], "sentences": [{"sent_id": 2, "raw": "right cup", "kind": "location", "hops": 0}]},
        ]  # fmt: skip

    def write(self, protocol: int = 2) -> "Toy":
        self.folder.mkdir(exist_ok=True)
        parts = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        (self.folder / "instances.json").write_text(json.dumps(parts))
        (self.folder / "refs(me).p").write_bytes(pickle.dumps(self.refs, protocol=protocol))
        return self

    def read(self, **options) -> pd.DataFrame:
        return read_refer(self.root, "toy", "me", **options)
