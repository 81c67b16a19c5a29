"""CoupAlign for the demo's budget beside MagNet: scores on val, cost, and whether its proposals cover the objects.

magnet data shapes
python benchmarks/coupalign.py --output results/tables/coupalign.csv      (six minutes a seed on two quiet cores)

coupalign_tiny and magnet_tiny take as many steps of as many sentences; MagNet's scores are those of demo.csv, whose
backbone learnt names for as long. The runs lie in results/runs; one that is finished is read, not made again. Proposals
count as masks where their logits are above 0.
"""

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from measured import parser
from torch.utils.data import DataLoader

import magnet
from magnet import runs
from magnet.data import collate, load_tokenizer, read_refer, select_split
from magnet.data.dataset import ExpressionDataset
from magnet.workbench.benchmark import write_table
from magnet.workbench.proposals import proposal_coverage

DEMO = Path(__file__).parents[1] / "results/tables/demo.csv"


def row(seed: int, soft: bool) -> dict:
    config = magnet.recipe("coupalign_tiny", seed=seed)
    own = replace(config.model.coupalign, soft_proposals=soft)
    run = magnet.fit(replace(config, model=replace(config.model, coupalign=own)))
    scores = magnet.summarize(magnet.evaluate(run, split="val", cached=True))
    seconds = [config.optim.batch_size / line["images_per_second"] for line in run.log() if "loss" in line]
    kept = {f"val_{name}": scores[name] for name in ("oIoU", "oIoU_low", "oIoU_high", "mIoU")}
    magnet_oiou = pd.read_csv(DEMO).set_index("seed")["val_oIoU"].get(seed, np.nan)
    cost = {"minutes": config.optim.num_steps * np.median(seconds) / 60}
    found = {f"proposals_{name}": value for name, value in coverage(run).items()}
    return {"seed": seed, "soft_proposals": soft, **cost, **kept, "magnet_val_oIoU": magnet_oiou, **found}


def coverage(run: runs.Run) -> dict[str, float]:
    data = run.config.data
    table = select_split(read_refer(data.root, data.name, data.split_by), "val")
    dataset = ExpressionDataset(table, data, load_tokenizer(run.config.model.language.vocabulary), training=False)
    return proposal_coverage(run.load_model(), DataLoader(dataset, batch_size=32, collate_fn=collate))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--linear", action="store_true", help="with proposals that are weighed as logits, too")
    options = options.parse_args()
    kinds = (True, False) if options.linear else (True,)
    table = pd.DataFrame([row(seed, soft) for soft in kinds for seed in options.seeds])
    print(table.round(2).T.to_string())
    if options.output:
        command = shlex.join(["python", *sys.argv])
        write_table(table, options.output, command)


if __name__ == "__main__":
    main()
