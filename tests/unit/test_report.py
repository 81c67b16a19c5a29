"""The report: complete, self-contained, and safe from what its data says."""

import base64
import dataclasses
import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ASSETS
from PIL import Image
from safetensors.torch import save_file

import magnet
from magnet import cli, runs
from magnet.config import Config, DataConfig, LanguageConfig, ModelConfig, VisionConfig
from magnet.workbench import report
from magnet.workbench.report import write_report

HOSTILE = '</figcaption><script>alert("$x_{")</script><img src=x onerror=alert(1)> & 5 < 6'
SIZE = 32


def write_data(root: Path) -> None:
    """A data set of 6 pictures with two objects each; every sentence is hostile."""
    (root / "own" / "images").mkdir(parents=True)
    images, annotations, refs = [], [], []
    for image_id in range(6):
        name = f"{image_id}.png"
        pixels = np.random.default_rng(image_id).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(root / "own" / "images" / name)
        images.append({"id": image_id, "file_name": name, "height": SIZE, "width": SIZE})
        for side in range(2):
            ann_id, x = 2 * image_id + side, 2 + 16 * side
            square = [x, 4, x + 10, 4, x + 10, 20, x, 20]
            annotations.append({"id": ann_id, "image_id": image_id, "category_id": 1, "segmentation": [square],
                                "area": 160, "bbox": [x, 4, 10, 16], "iscrowd": 0})  # fmt: skip
            text = f"{HOSTILE} {ann_id}"
            sentence = {"sent_id": ann_id, "raw": text, "sent": text, "tokens": text.split()}
            refs.append({"ref_id": ann_id, "ann_id": ann_id, "image_id": image_id, "category_id": 1, "split": "val",
                         "file_name": name, "sent_ids": [ann_id], "sentences": [sentence]})  # fmt: skip
    categories = [{"id": 1, "name": "thing"}]
    (root / "own" / "refs(me).json").write_text(json.dumps(refs))
    (root / "own" / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )


def config(root: Path) -> Config:
    vocabulary = root / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *'<>/&$_{}()=!"56', "script", "x"]))
    options = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    swin = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 4}
    model = ModelConfig(
        vision=VisionConfig(name="swin_tiny_patch4_window7_224", options=swin),
        language=LanguageConfig(vocabulary=str(vocabulary), options=options),
    )
    data = DataConfig(root=str(root), name="own", split_by="me", image_size=SIZE, num_workers=0)
    return Config(recipe="tiny", model=model, data=data)


@pytest.fixture
def run(tmp_path, monkeypatch) -> runs.Run:
    """A trained and scored run, with a baseline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "NUM_EXAMPLES", 2)
    monkeypatch.setattr(report, "NUM_ATTENTION", 1)
    write_data(tmp_path)
    made = runs.open_run(config(tmp_path))
    torch.manual_seed(0)
    save_file(magnet.build_model(made.config.model).state_dict(), made.weights)
    line = {"lr": 0.1, "loss": 0.7, "raw": {"cross_entropy": 0.7}, "weighted": {"cross_entropy": 0.7}}
    lines = [{"step": 1, **line}, {"step": 1, "validation": {"oIoU": 12.0, "mIoU": 11.0}}]
    (made.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = magnet.summarize(magnet.evaluate(made, progress=False))
    baseline = {key: 12.34 if isinstance(value, float) else value for key, value in summary.items()}
    rows = [{"split": "val", "model": "tiny", **summary}, {"split": "val", "model": "random <b>", **baseline}]
    pd.DataFrame(rows).to_csv(made.folder / "summary.csv", index=False)
    return made


@pytest.fixture
def html(run) -> str:
    return write_report(run).read_text(encoding="utf-8")


class Page(HTMLParser):
    """The tags, visible words and links of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.links, self.words = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.links += [values[key] for key in ("src", "href") if key in values]
        assert not any(key.startswith("on") for key in values)

    def handle_data(self, data):
        self.words.append(data)


def lines_left_out(html: str) -> list[str]:
    return [unescape(line) for line in re.findall(r"<strong>Left out:</strong> (.*)</p>", html)]


def test_hostile_text_stays_text(run, html):
    page = Page(html)
    words = "".join(page.words)
    assert "script" not in page.tags
    assert f"{HOSTILE} " in words and "random <b>" in page.words


def test_report_is_one_file_without_network(run, html):
    links = Page(html).links
    pictures = [link for link in links if link.startswith("data:image/png;base64,")]
    assert len(pictures) == 2 + 3 * 2 + 2  # figures, galleries, attention
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))).verify()
    files = set(links) - set(pictures)
    assert {"summary.csv", "model.safetensors", "log.jsonl"} <= files
    assert all((run.folder / name).exists() for name in files)
    assert len(html) < 10e6


def test_report_has_all_its_parts(run, html):
    quarters = ("Best quarter", "Middle quarter", "Worst quarter")
    for title in (
        "Scores",
        "Scores beside the baselines",
        "Training",
        *quarters,
        "Attention per word",
        "Configuration",
    ):
        assert html.count(f">{title}<") == 1
    assert "seed 0, 1 steps of 32 pictures." in html
    assert not any(name in html for name in ("Successes", "Typical", "Failures"))  # nor a link to a page that is not
    assert "Left out" not in html
    words = " ".join(Page(html).words)
    score = magnet.summarize(pd.read_parquet(run.folder / "eval/own-val-original.parquet"))["oIoU"]
    assert words.index("this run") < words.index(f"{score:.1f} ") < words.index("random <b>") < words.index("12.3")
    assert "tiny" not in words.split("How it was made")[0].replace(run.name, "")  # its own row is not listed twice


def test_a_run_without_results_says_what_is_missing(run):
    for path in (run.folder / "eval").iterdir():
        path.unlink()
    html = write_report(run).read_text(encoding="utf-8")
    assert f"magnet evaluate {run.name}" in html and ">Training<" in html and "<table>" not in html


def test_results_under_another_protocol_alone_are_told_from_none(run, capsys):
    table = run.folder / "eval/own-val-original.parquet"
    table.rename(table.with_name("own-val-paper.parquet"))
    cli.report(run.name)
    wanted = (
        f"under the protocol `original`; make them with: magnet evaluate {run.name} --split val --protocol original"
    )
    assert wanted in (run.folder / "report.html").read_text(encoding="utf-8")  # and so says what stands for the other
    assert wanted in capsys.readouterr().out


def test_without_weights_only_the_attention_is_missing(run):
    run.weights.unlink()
    html = write_report(run).read_text(encoding="utf-8")
    assert html.count("<figure") == 3 * 2 and "<h2>Attention per word" not in html
    assert lines_left_out(html) == [
        f"attention per word: {run.weights} does not exist yet; train it with: magnet train tiny"
    ]


def test_damaged_weights_leave_the_attention_out(run):
    run.weights.write_bytes(b"no tensors")
    (line,) = lines_left_out(write_report(run).read_text(encoding="utf-8"))
    assert line.startswith(f"attention per word: {run.weights} is damaged")


def test_a_damaged_table_is_named_with_what_to_do(run):
    table = run.folder / "eval/own-val-original.parquet"
    table.write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"own-val-original.parquet is damaged .*; delete it and evaluate again"):
        write_report(run)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_bytes(b"no picture")])
def test_one_bad_picture_costs_only_its_examples(run, tmp_path, spoil):
    table = pd.read_parquet(run.folder / "eval/own-val-original.parquet").set_index("sent_id")
    best, other = report.choose_examples(table.reset_index(), report.NUM_EXAMPLES)["successes"]
    spoil(tmp_path / "own" / "images" / f"{table['image_id'][best]}.png")
    html = write_report(run).read_text(encoding="utf-8")
    words = "".join(Page(html).words)
    assert f"{HOSTILE} {other} " in words and f"{HOSTILE} {best} " not in words
    assert all(f"<h2>{title}<" in html for title in (*report.QUARTERS.values(), "Attention per word"))
    (line,) = lines_left_out(html)
    assert line.startswith("examples whose picture cannot be read, 1 of 6; the first:")
    assert f"{table['image_id'][best]}.png" in line


def test_the_link_to_the_failures_needs_no_picture(run, tmp_path):
    for path in (tmp_path / "own" / "images").iterdir():
        path.unlink()
    cli.report(run.name)
    html = (run.folder / "report.html").read_text(encoding="utf-8")
    assert html.index('<a href="failures.html">') < html.index("Left out:") < html.index("<h2>")
    assert "6 of 6" in lines_left_out(html)[0] and "<figure" not in html


def test_without_baselines_the_figure_does_not_speak_of_them(run):
    (run.folder / "summary.csv").unlink()
    html = write_report(run).read_text(encoding="utf-8")
    assert "beside the baselines" not in html and html.count("<h2>Scores<") == 1
    assert "mIoU with intervals by split" in html


@pytest.mark.parametrize(
    "num_steps, said", [(1234, "seed 0, configured for 1,234 steps of 32 pictures."), (None, "seed 0.")]
)
def test_without_a_log_no_steps_are_made_up(run, num_steps, said):
    (run.folder / "log.jsonl").unlink()
    optim = dataclasses.replace(run.config.optim, num_steps=num_steps)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, optim=optim))
    assert said in write_report(run).read_text(encoding="utf-8")


def test_a_run_without_its_pictures_keeps_its_numbers(run, tmp_path):
    for path in (tmp_path / "own" / "images").iterdir():
        path.unlink()
    html = write_report(run).read_text(encoding="utf-8")
    assert "Left out:" in html and "<table>" in html and " quarter" not in html


def test_results_on_other_data_are_not_mixed_in(run, tmp_path):
    (tmp_path / "own" / "refs(me).json").rename(tmp_path / "own" / "refs(other).json")
    magnet.evaluate(run, data=dataclasses.replace(run.config.data, split_by="other"), progress=False)
    assert len(list((run.folder / "eval").iterdir())) == 2
    html = write_report(run).read_text(encoding="utf-8")  # galleries are left out: the run's own refs are gone
    assert html.count("<tr") == 3 and "Left out" in html


def test_shipped_weights_are_scored_and_the_pages_are_the_users(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAGNET_DATA", str(ASSETS))
    monkeypatch.setattr(report, "NUM_EXAMPLES", 1)
    before = {path.name for path in (runs.SHIPPED / "refshapes-tiny").iterdir()}
    cli.report("refshapes-tiny")
    pages = [tmp_path / "results/explore/refshapes-tiny" / name for name in ("failures.html", "report.html")]
    assert capsys.readouterr().out.split() == [str(page.relative_to(tmp_path)) for page in pages]
    assert all(f"<td>{split}</td>" in pages[1].read_text(encoding="utf-8") for split in ("val", "testA", "testB"))
    assert "<figure" in pages[0].read_text(encoding="utf-8")
    assert "configured for 12,500 steps of 16 pictures" in pages[1].read_text(encoding="utf-8")
    assert {path.name for path in (runs.SHIPPED / "refshapes-tiny").iterdir()} == before
