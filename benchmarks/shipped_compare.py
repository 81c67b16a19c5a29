"""Are the two networks that come with the package told apart? Paired on every sentence of every split.

python benchmarks/shipped_compare.py --output results/tables/shipped_compare.csv        (a minute)

Rows: refshapes-tiny less refshapes-tiny-lavt in oIoU, mIoU and P@0.5, points, with 95 % intervals over pictures. One
training of each: what another seed would give is not in the intervals.
"""

import pandas as pd
from measured import parser, report

import magnet

SPLITS, METRICS = ("val", "testA", "testB", "testC", "testR"), ("oIoU", "mIoU", "P@0.5")
MODELS = "refshapes-tiny", "refshapes-tiny-lavt"


def differences(split: str) -> pd.DataFrame:
    tables = [magnet.evaluate(name, split=split, progress=False) for name in MODELS]
    return magnet.compare(*tables).set_index("metric").loc[list(METRICS)]


def main() -> None:
    options = parser(__doc__).parse_args()
    rows = []
    for split in SPLITS:
        for metric, row in differences(split).iterrows():
            ends = {"": "difference", ", low": "low", ", high": "high"}
            rows += [(f"{split}: {metric}, MagNet - LAVT{end}", row[column], "points") for end, column in ends.items()]
    report(rows, options.output)


if __name__ == "__main__":
    main()
