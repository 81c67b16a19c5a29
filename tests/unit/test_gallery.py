"""The failures page: every wrong answer, small, to filter, and safe from what its data says."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_report
from PIL import Image

import magnet
from magnet import cli, runs
from magnet.metrics import rle_encode
from magnet.workbench import gallery
from magnet.workbench.gallery import tags_of, write_gallery

run = test_report.run  # a scored run whose every sentence is hostile
TABLE = "eval/own-val-original.parquet"


class Page(HTMLParser):
    """The tags of a page with their attributes, and its visible words."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words += data

    def cards(self) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == "figure"]


def page_of(run, **options) -> tuple[str, Page]:
    html = write_gallery(run, **options).read_text(encoding="utf-8")
    return html, Page(html)


def test_cards_are_the_wrong_answers_with_what_the_filters_ask_for(run):
    table = pd.read_parquet(run.folder / TABLE)
    _, page = page_of(run)
    wrong = table[table["iou"] < 0.5].sort_values(["iou", "sent_id"])
    assert [card["data-text"] for card in page.cards()] == wrong["text"].tolist() and len(wrong) > 2
    assert [float(card["data-iou"]) for card in page.cards()] == pytest.approx(wrong["iou"].tolist(), abs=1e-4)
    for card, (_, row) in zip(page.cards(), wrong.iterrows()):
        assert card["data-split"] == "val" and card["data-error"] in gallery.KINDS[1:]
        assert json.loads(card["data-tags"]) == tags_of(row) and "small" in tags_of(row)
    offered = {name: page.words.count(name) for name in ("split", "kind", "tag", "IoU from", "words")}
    assert all(offered.values())


def test_hostile_sentences_stay_text(run):
    html, page = page_of(run)
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert len(scripts) == 1 and "img" not in {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert test_report.HOSTILE in page.words
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    script = re.search(r"<script>(.*?)</script>", html, flags=re.S)[1]
    assert f"'sha256-{gallery._hash(script)}'" in policy and "default-src 'none'" in policy


def test_the_page_needs_nothing_beside_it(run):
    _, page = page_of(run)
    links = [a[key] for _, a in page.tags for key in ("href", "src") if key in a]
    pictures = [link for link in links if link.startswith("data:image/webp;base64,")]
    assert len(pictures) == len(page.cards())
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))).verify()
    names = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link.removeprefix("#") for link in set(links) - set(pictures)} == names


def test_of_many_failures_a_part_is_drawn_always_the_same(run):
    all_of_them, (html, page) = page_of(run)[1].cards(), page_of(run, num_cards=3)
    assert len(page.cards()) == 3 < len(all_of_them) and "drawn by chance" in page.words
    assert page_of(run, num_cards=3)[0] == html


def test_missing_pictures_are_grey_and_counted(run, tmp_path):
    (tmp_path / "own" / "images" / "0.png").unlink()
    _, page = page_of(run)
    missing = len(page.cards()) - sum(tag == "image" for tag, _ in page.tags)
    assert missing > 0 and f"{missing} pictures could not be read" in page.words


def test_500_failures_of_the_worst_kind_stay_under_10_mb(run, tmp_path):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (480, 640, 3), np.uint8)).save(tmp_path / "noise.png")
    rles = [rle_encode(random.random((480, 640)) < 0.5) for _ in range(2)]
    answers = pd.read_parquet(run.folder / TABLE).assign(split="val", error="part")
    answer = answers.iloc[0].copy()
    answer["rle"], answer["text"] = rles[0], 40 * "words "
    truth = pd.Series({"rle": rles[1], "height": 480, "width": 640})
    card = gallery._card(answer, truth, tmp_path / "noise.png")
    assert card.has_picture and card.drawing.count("<path") == 2
    assert 1e6 < len(gallery._page(run, answers, [card] * 500)) < 10e6


def write_photographs(root: Path, num: int) -> None:
    """A data set of `num` different pictures of 640 x 480 with an object of 60 corners each."""
    random = np.random.default_rng(0)
    rough = Image.fromarray(random.integers(0, 255, (96, 128, 3), np.uint8)).resize(
        (1280, 960), Image.Resampling.BICUBIC
    )
    large = np.asarray(rough) // 2 + random.integers(0, 40, (960, 1280, 3), np.uint8)  # shapes, and a camera's noise
    (root / "own" / "images").mkdir(parents=True)
    images, annotations, refs = [], [], []
    for k in range(num):
        y, x = k % 480, 640 * k // num
        Image.fromarray(large[y : y + 480, x : x + 640]).save(root / "own" / "images" / f"{k}.jpg", quality=90)
        angle, radius = np.linspace(0, 6.2, 60), random.uniform(60, 200, 60)
        corners = np.stack([320 + radius * np.cos(angle), 240 + radius * np.sin(angle)], 1).ravel().tolist()
        images.append({"id": k, "file_name": f"{k}.jpg", "height": 480, "width": 640})
        annotations.append(
            {"id": k, "image_id": k, "category_id": 1, "segmentation": [corners], "area": 9, "iscrowd": 0}
        )
        text = f"the large thing in the middle of picture number {k}"
        sentence = {"sent_id": k, "raw": text, "sent": text, "tokens": text.split()}
        refs.append({"ref_id": k, "ann_id": k, "image_id": k, "category_id": 1, "split": "val", "file_name": f"{k}.jpg",
                     "sent_ids": [k], "sentences": [sentence]})  # fmt: skip
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "own" / "refs(me).json").write_text(json.dumps(refs))
    (root / "own" / "instances.json").write_text(json.dumps(instances))


def test_500_photographs_of_refcocos_size_stay_sharp_and_under_10_mb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photographs(tmp_path, 500)
    run = runs.open_run(test_report.config(tmp_path))
    ragged = rle_encode((np.random.default_rng(0).random((6, 8)) < 0.5).repeat(80, 0).repeat(80, 1))  # many parts
    runs.write_json(tmp_path / "answers.json", [{"sent_id": k, "rle": ragged} for k in range(500)])
    results = magnet.score(tmp_path / "answers.json", run.config.data)
    runs.atomic_write(run.folder / TABLE, results.to_parquet)
    html, page = page_of(run)
    pictures = {attributes["href"] for tag, attributes in page.tags if tag == "image"}
    assert len(pictures) == len(page.cards()) == 500 and len(html.encode()) <= 10e6
    sizes = {Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))).size for picture in list(pictures)[::50]}
    assert min(max(size) for size in sizes) >= 192


def test_the_command_writes_both_pages_and_says_what_is_missing(run, capsys):
    cli.report(run.name, num_failures=2)
    assert (run.folder / "failures.html").exists()
    assert 'href="failures.html"' in (run.folder / "report.html").read_text(encoding="utf-8")
    (run.folder / TABLE).unlink()
    cli.report(run.name)
    assert f"no failures.html: {run.folder} has no results yet" in capsys.readouterr().out
