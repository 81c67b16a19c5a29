"""Thirteen real objects by heart: the whole path on COCO photographs, human sentences and real polygons.

    MAGNET_REAL_DATA=... python benchmarks/real_objects.py --output results/tables/real_objects.csv

Lays the sample out as RefCOCOg's own files (a refs pickle among them), trains LAVT on it from random weights with the
command a RefCOCO user types, scores it under `original` and draws the predictions as contours on grey, because the
photographs may not be passed on. A network that cannot learn thirteen objects by heart is wired wrongly.
"""

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pandas as pd

import magnet
from magnet import runs
from magnet.data import read_refer
from magnet.workbench.diagnostics import load_examples
from magnet.workbench.plots import contours_on_grey

SETTINGS = [
    "--data.name", "refcocog", "--data.split-by", "google", "--data.train-split", "val", "--data.val-split", "val",
    "--data.no-fresh", "--data.image-size", "224", "--optim.batch-size", "13", "--optim.val-every", "100",
]  # fmt: skip


def lay_out(sample: Path, root: Path) -> Path:
    """The sample as <root>/refcocog/{refs(google).p, instances.json} and <root>/images/train2014/*.jpg."""
    (root / "refcocog").mkdir(parents=True, exist_ok=True)
    refs = json.loads((sample / "refs(google).json").read_text())
    (root / "refcocog" / "refs(google).p").write_bytes(pickle.dumps(refs, protocol=2))
    shutil.copy(sample / "instances.json", root / "refcocog")
    shutil.copytree(sample / "images", root / "images" / "train2014", dirs_exist_ok=True)
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="CSV of the scores; the figure goes to results/figures")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--root", type=Path, default=Path("data/real_objects"))
    options = parser.parse_args()
    if "MAGNET_REAL_DATA" not in os.environ:
        sys.exit("set MAGNET_REAL_DATA to the folder that holds refcocog_google_val_mini (see data/README.md)")
    real = Path(os.environ["MAGNET_REAL_DATA"])
    root = lay_out(real / "refcocog_google_val_mini", options.root)
    command = ["magnet", "train", "lavt_tiny", *SETTINGS, "--optim.num-steps", str(options.steps)]
    local = ["--data.root", str(root), "--model.language.vocabulary", str(real / "bert-base-uncased-vocab.txt")]
    print(" ".join([*command, "--data.root ROOT --model.language.vocabulary VOCABULARY"]))
    subprocess.run([sys.executable, "-m", *command, *local], check=True)
    run = runs.find("lavt_tiny")
    table = magnet.evaluate(run, split="val", protocol="original")
    config = run.config.optim
    minutes = sum(config.batch_size / line["images_per_second"] for line in run.log() if "loss" in line) / 60
    summary = magnet.summarize(table)
    print({name: round(value, 2) for name, value in summary.items()}, f"{minutes:.1f} minutes")
    if options.output:
        save(options.output, run, table, {**summary, "minutes": round(minutes, 2), "command": " ".join(command)})


def save(output: Path, run: runs.Run, table: pd.DataFrame, row: dict) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([{**row, "date": date.today()}]).round(3).to_csv(output, index=False)
    data = run.config.data
    expressions = read_refer(data.root, data.name, data.split_by)
    figure = contours_on_grey(load_examples(expressions, table["sent_id"].tolist(), table), num_columns=5)
    path = Path("results/figures") / f"{output.stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
