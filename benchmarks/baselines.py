"""Train the two baselines that are blind to word order, and keep their results with the package.

python benchmarks/baselines.py --output results/tables/baselines.csv      (two trainings as long as the demo's)

Needed once per version of the generator and of the demo's recipe. Writes magnet/assets/refshapes_baselines/, and a row
for each baseline and split: oIoU with its interval, and how often the right object is picked (percent).
"""

import dataclasses

import pandas as pd
from measured import parser

import magnet
from magnet import runs
from magnet.data import read_refer, select_split
from magnet.refshapes.baselines import BASELINES, RESULTS, TRAINED, baseline_table
from magnet.workbench.demo import SPLITS, demo_config

WORDS = dict(zip(TRAINED, ("none", "bag")))
KEPT = ["sent_id", "ref_id", "image_id", "I", "U", "rle"]


def train_and_keep(name: str) -> None:
    config = demo_config()
    run = magnet.fit(dataclasses.replace(config, data=dataclasses.replace(config.data, words=WORDS[name])))
    for split in SPLITS:
        table = magnet.evaluate(run, split=split, cached=True)[KEPT]
        runs.atomic_write(RESULTS / f"{name}-{split}.parquet", lambda file: table.to_parquet(file, index=False))  # noqa: B023


def scores(name: str, truths: pd.DataFrame, split: str) -> dict:
    table = baseline_table(name, truths)
    summary = magnet.summarize(table)
    kept = {metric: round(summary[metric], 2) for metric in ("oIoU", "oIoU_low", "oIoU_high", "mIoU")}
    return {"split": split, "baseline": name, **kept, "picked_right": round(100 * table["picked_right"].mean(), 2)}


def main() -> None:
    options = parser(__doc__).parse_args()
    for name in TRAINED:
        train_and_keep(name)
    expressions, about = read_refer(None, "refshapes", "v1"), runs.environment()
    rows = [scores(name, select_split(expressions, split), split) for split in SPLITS for name in BASELINES]
    made = {"command": "python benchmarks/baselines.py", "hardware": about["processor"], "commit": about["commit"]}
    table = pd.DataFrame(rows).assign(**made)
    print(table.drop(columns=list(made)).to_string(index=False))
    if options.output:
        table.to_csv(options.output, index=False)


if __name__ == "__main__":
    main()
