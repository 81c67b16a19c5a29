"""A study whose truth is known: runs that nobody made, with effects put in by hand.

To see what the analysis finds of them, and to stand in for a study that has not been run.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from magnet.data import read_refer
from magnet.workbench.study import Study
from magnet.workbench.study_files import FOLDER, NUMBERS
from magnet.workbench.study_results import Results, read_finished

FACTS = dict.fromkeys(NUMBERS, np.nan) | dict.fromkeys(("version", "hardware", "torch"), "made up")


def pretend(
    study: Study, expressions: pd.DataFrame, gains: dict[str, float] | None = None, num_seeds: int | None = None,
    spread: float = 0.02, noise: float = 0.05, seed: int = 0,
) -> Results:  # fmt: skip
    """Runs whose IoU is the same for an expression, plus its variant's gain, its run's luck, and noise; 0 to 1.

    Args:
        expressions: with sent_id, image_id and split, as `read_refer` gives them.
        gains: variant -> what it brings to every expression's IoU; those left out bring nothing.
        num_seeds: of each variant; None: the study's own.
        spread, noise: standard deviations of a run's luck and of what is left.
    """
    generator, rows = np.random.default_rng(seed), len(expressions)
    seeds = study.seeds if num_seeds is None else range(num_seeds)
    pairs = [(variant, s) for variant in study.variants for s in seeds]
    union = generator.integers(50, 900, (rows, 1)) + np.zeros(len(pairs))
    luck = spread * generator.normal(size=len(pairs))
    shift = np.array([(gains or {}).get(variant, 0.0) for variant, _ in pairs]) + luck
    iou = generator.uniform(0.3, 0.6, (rows, 1)) + shift + noise * generator.normal(size=union.shape)
    inside, one = (union * iou.clip(0, 1)).round(), np.ones_like(union)
    scores = {"oIoU": (inside, union), "mIoU": (inside / union, one)}
    for i, kind in enumerate(study.errors):  # an expression that is missed is missed in one way by all runs
        mine = np.arange(rows)[:, None] % len(study.errors) == i
        scores[f"{kind} errors"] = ((inside / union < 0.4) & mine).astype(float), one
    return Results(study, expressions, pairs, scores, [FACTS] * len(pairs))


def read_or_pretend(study: Study, root: str | Path | None = None, folder: Path = FOLDER) -> Results:
    """`read_finished`; where the runs or their data set are not there, made-up ones in which no part does anything.

    Says so, and the study is then called <name>_made_up.
    """
    try:
        return read_finished(study, root, folder)
    except (FileNotFoundError, ValueError) as error:
        print(f"The study {study.name} cannot be read: {error}.")
        print("MADE-UP NUMBERS stand in for it. In them no part does anything; they show how to read, and no finding.")
    data = study.config(next(iter(study.variants)), 0, root).data
    table = read_refer(data.root, data.name, data.split_by, data.polygon_overlap)
    rows = table[table["split"].isin(study.splits)].reset_index(drop=True)
    return pretend(replace(study, name=f"{study.name}_made_up"), rows)
