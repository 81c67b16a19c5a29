"""How long the analysis of a finished study takes: 8 variants, 5 seeds, 10,000 expressions; all tables, all groups.

python benchmarks/studies.py --output results/tables/studies.csv      (a minute; bound: 30 s)

The runs are made up; the expressions are as many of RefShapes' kinds and tags on 1,500 images.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from measured import parser, report

from magnet.data import read_refer
from magnet.workbench.pretend import FACTS
from magnet.workbench.studies import components
from magnet.workbench.study_report import report_study
from magnet.workbench.study_results import Results

NUM_ROWS, NUM_IMAGES, NUM_SEEDS = 10_000, 1_500, 5
ASSETS = Path(__file__).parents[1] / "magnet" / "assets"


def made_up_results() -> Results:
    """Of the eight variants of `components`' factorial, all expressions in one split."""
    study = components()
    variants = {name: study.variants[name] for name in study.factorial}
    study = replace(study, variants=variants, comparisons=(), splits=("val",), errors=("part", "wrong_instance"))
    generator = np.random.default_rng(0)
    expressions = read_refer(ASSETS).sample(NUM_ROWS, replace=True, random_state=0, ignore_index=True)
    expressions = expressions.assign(
        split="val", image_id=np.arange(NUM_ROWS) % NUM_IMAGES, sent_id=np.arange(NUM_ROWS)
    )
    pairs = [(variant, seed) for variant in variants for seed in range(NUM_SEEDS)]
    union = generator.integers(100, 5_000, (NUM_ROWS, len(pairs))).astype(float)
    iou, one = generator.beta(2, 1, union.shape), np.ones_like(union)
    scores = {"oIoU": (union * iou, union), "mIoU": (iou, one)}
    scores |= {f"{kind} errors": ((generator.random(union.shape) < 0.1).astype(float), one) for kind in study.errors}
    return Results(study, expressions, pairs, scores, [FACTS] * len(pairs))


def main() -> None:
    options, results = parser(__doc__).parse_args(), made_up_results()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        files = report_study(results, "made up", Path(folder), Path(folder))
        seconds = time.perf_counter() - began
        groups = len(pd.read_csv(next(file for file in files if file.stem.endswith("_groups"))))
    size = f"8 variants, {NUM_SEEDS} seeds, {NUM_ROWS:,} expressions, {NUM_IMAGES:,} images"
    rows = [
        (f"analysis with its tables and figure: {size}", seconds, "s"),
        ("rows of differences by kind and tag among them", groups, "count"),
    ]
    report(rows, options.output)


if __name__ == "__main__":
    main()
