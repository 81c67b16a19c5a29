"""The widgets and the page of failures on pictures of every kind: none is refused, none is drawn as something else."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_report
from PIL import Image
from test_occlusion import RedOrAll

import magnet
from magnet import runs
from magnet.config import DataConfig
from magnet.data import read_refer
from magnet.explore import FailureExplorer, PhrasePlayground
from magnet.metrics import rle_encode
from magnet.predictor import Predictor
from magnet.workbench.gallery import write_gallery

ORIENTATION = 0x0112
SIDEWAYS = Image.Exif()
SIDEWAYS[ORIENTATION] = 6
KINDS = {  # file -> mode, width, height, colour; all are red or, without colours, of 200 of 255
    "rgb.png": ("RGB", 60, 40, (200, 0, 0)),
    "grey.jpg": ("L", 60, 40, 200),
    "transparent.png": ("RGBA", 60, 40, (200, 0, 0, 9)),
    "sixteen.png": ("I;16", 60, 40, 200 << 8),
    "ink.jpg": ("CMYK", 60, 40, (55, 255, 255, 0)),
    "palette.gif": ("P", 60, 40, 1),
    "sideways.jpg": ("RGB", 60, 40, (200, 0, 0)),
    "dot.png": ("RGB", 1, 1, (200, 0, 0)),
    "huge.jpg": ("RGB", 8000, 6250, (200, 0, 0)),  # 50 megapixels
}


def write_picture(path: Path) -> None:
    mode, width, height, colour = KINDS[path.name]
    image = Image.new(mode, (width, height), colour)
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 0, 0])
    image.save(path, **({"exif": SIDEWAYS} if path.name.startswith("sideways") else {}))


def write_data(root: Path) -> None:
    """One picture of each kind; the sentence means its left half, or all of a single pixel."""
    (root / "own" / "images").mkdir(parents=True)
    images, annotations, refs = [], [], []
    for k, (name, (_, width, height, _)) in enumerate(KINDS.items()):
        write_picture(root / "own" / "images" / name)
        right = max(1, width // 2)
        corners = [0, 0, right, 0, right, height, 0, height]
        images.append({"id": k, "file_name": name, "height": height, "width": width})
        annotations.append(
            {"id": k, "image_id": k, "category_id": 1, "segmentation": [corners], "area": 9, "iscrowd": 0}
        )
        sentence = {"sent_id": k, "raw": name, "sent": name, "tokens": [name]}
        refs.append({"ref_id": k, "ann_id": k, "image_id": k, "category_id": 1, "split": "val", "file_name": name,
                     "sent_ids": [k], "sentences": [sentence]})  # fmt: skip
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "half"}]}
    (root / "own" / "refs(me).json").write_text(json.dumps(refs))
    (root / "own" / "instances.json").write_text(json.dumps(instances))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("strange")
    write_data(root)
    return root


@pytest.fixture(scope="module")
def results(root) -> pd.DataFrame:
    """Answers that mark nothing: every one is wrong."""
    masks = [np.zeros((height, width), bool) for _, width, height, _ in KINDS.values()]
    answers = [{"sent_id": k, "rle": rle_encode(mask)} for k, mask in enumerate(masks)]
    runs.write_json(root / "answers.json", answers)
    return magnet.score(root / "answers.json", DataConfig(root=str(root), name="own", split_by="me"))


def colour_of(html: str) -> tuple[int, int, int]:
    """Of the first picture in it, in the middle."""
    picture = Image.open(io.BytesIO(base64.b64decode(re.search(r'href="data:image/\w+;base64,([^"]+)"', html)[1])))
    return picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))


def is_that_of(colour: tuple[int, int, int], name: str) -> bool:
    expected = (200, 200, 200) if KINDS[name][0] in ("L", "I;16") else (200, 0, 0)
    return np.abs(np.subtract(colour, expected)).max() <= 30  # CMYK and lossy files only come near


def test_the_explorer_draws_each(root, results):
    explorer = FailureExplorer(results, expressions=read_refer(root, "own", "me"), progress=False)
    assert len(explorer.rows) == len(KINDS) and not [line for line in explorer.failures.missing if "picture" in line]
    for name in KINDS:
        explorer.filters.text.value = name
        assert explorer.status.value == "ready" and name in explorer.about.value
        assert is_that_of(colour_of(explorer.picture.value), name) and 'class="truth"' in explorer.picture.value
        assert len(explorer.picture.value) < 200_000


@pytest.mark.parametrize("name", KINDS)
def test_the_playground_answers_about_each(root, name):
    predictor = Predictor(RedOrAll(), DataConfig(image_size=8), "refshapes")
    playground = PhrasePlayground(predictor, root / "own" / "images" / name, "red")
    assert "score" in playground.said and "⚠" not in playground.said
    width, height = KINDS[name][1:3] if name != "sideways.jpg" else (40, 60)  # turned upright
    shown = playground.image.shape[:2]
    assert shown[0] * width == pytest.approx(shown[1] * height, rel=0.01) and max(shown) == min(640, max(width, height))
    assert playground.answer.mask.shape == shown and is_that_of(colour_of(playground.places[0].value), name)
    assert playground.stand_in().width > 100


def test_the_page_of_failures_shows_each(root, results):
    config = test_report.config(root)
    run = runs.Run(root / "run", config)
    runs.write_json(run.folder / "config.json", {"version": runs.VERSION, **runs.config_to_dict(config)})
    runs.atomic_write(run.folder / "eval" / "own-val-original.parquet", results.to_parquet)
    html = write_gallery(run).read_text(encoding="utf-8")
    cards = dict(re.findall(r'<figure [^>]*data-text="([^"]+)">(.*?)</figure>', html, flags=re.S))
    assert set(cards) == set(KINDS) and "could not be read" not in html
    assert all(is_that_of(colour_of(card), name) for name, card in cards.items())
