"""What does the network lack? The oracle ladder, kinds of errors, and rare words said in common ones.

python benchmarks/oracle.py --model refshapes-tiny --output results/tables/oracle.csv        (three minutes)

For val and testR: oIoU, mIoU and P@0.5 of every rung of explore/oracle.py, and the share of each kind of error. Then
testR's sentences as they stand and with the same meaning in common words (workbench/paraphrases.py): percent that mark
the object meant, and the paired difference. Each with its 95 % interval over pictures or scenes and n; one model, so no
spread of seeds. Needs RefShapes: magnet data shapes.
"""

import pandas as pd
import torch
from measured import parser, report

import magnet
from magnet.data import read_refer, select_split
from magnet.explore.oracle import oracle_ladder
from magnet.workbench.errors import error_kinds, error_shares
from magnet.workbench.paraphrases import ask_wordings, in_common_words, summarize_wordings

METRICS = ("oIoU", "mIoU", "P@0.5")


def ladder_rows(split: str, ladder: pd.DataFrame) -> list[tuple[str, float, str]]:
    rows = []
    for rung, scores in ladder.iterrows():
        for metric in METRICS:
            rows += interval_rows(f"{split} {rung}: {metric}", scores[[metric, f"{metric}_low", f"{metric}_high"]], "%")
        rows.append((f"{split} {rung}: n", scores["n"], "count"))
    return rows


def share_rows(name: str, shares: pd.DataFrame) -> list[tuple[str, float, str]]:
    rows = []
    for what, row in shares.iterrows():
        unit = "points" if what == "difference" else "%"
        rows += interval_rows(f"{name}: {what}", row[["value", "low", "high"]], unit)
    return [*rows, (f"{name}: n", shares["n"].iloc[0], "count")]


def interval_rows(name: str, ends: pd.Series, unit: str) -> list[tuple[str, float, str]]:
    return [(name + end, value, unit) for end, value in zip(("", ", low", ", high"), ends)]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", default="refshapes-tiny", help="shipped weights, or a run")
    options.add_argument("--scenes", type=int, default=240, help="of testR, for its wordings")
    options = options.parse_args()
    torch.set_num_threads(1)
    rows, expressions = [], read_refer()
    for split in ("val", "testR"):
        results, truths = magnet.evaluate(options.model, split=split), select_split(expressions, split)
        rows += ladder_rows(split, oracle_ladder(results, truths))
        rows += share_rows(f"{split} answers", error_shares(error_kinds(results, truths), results))
    said = in_common_words("testR", options.scenes)
    rows += share_rows("testR wordings", summarize_wordings(ask_wordings(magnet.load(options.model), said)))
    report(rows, options.output)


if __name__ == "__main__":
    main()
