"""`magnet demo` for several seeds: minutes, memory, and scores with intervals beside the baselines.

python benchmarks/demo.py --seeds 0 1 2 --output results/tables/demo.csv      (12 minutes a seed on two quiet cores)

Seeds share one pretrained backbone: the minutes and memory of a seed that finds it there are left empty.

Writes a row a seed; every split and baseline of the seeds goes to demo_splits.csv beside it, and the pictures of the
first seed to results/figures. A seed whose demo is finished is read, not run again.
"""

import argparse
import subprocess
import sys
from datetime import date
from pathlib import Path

import pandas as pd

import magnet
from magnet import runs
from magnet.data import read_refer, select_split
from magnet.workbench.demo import demo_config
from magnet.workbench.diagnostics import choose_examples, load_examples
from magnet.workbench.plots import prediction_grid, training_curves


def finished_run(seed: int) -> runs.Run:
    run = runs.open_run(demo_config(seed=seed))
    if not (run.folder / "summary.csv").exists():
        subprocess.run([sys.executable, "-m", "magnet", "demo", "--seed", str(seed)], check=True)
    return run


def row(seed: int, run: runs.Run) -> dict:
    table = magnet.evaluate(run, split="val", cached=True)
    kinds, whole = magnet.summarize(table, groups="kind"), magnet.summarize(table)
    scores = {f"{kind}_mIoU": kinds.loc[kind, "mIoU"] for kind in kinds.index}
    scores |= {f"val_{name}": whole[name] for name in ("oIoU", "oIoU_low", "oIoU_high", "mIoU")}
    about = runs.read_json(run.folder / "environment.json")
    made = {"command": f"magnet demo --seed {seed}", "hardware": about["processor"], "commit": about["commit"]}
    cost = run.folder / "cost.json"  # missing where the demo was stopped on its way
    cost = runs.read_json(cost) if cost.exists() else dict.fromkeys(("minutes", "memory_gb"))
    return {"seed": seed, **cost, **scores, **made, "date": date.today()}


def save_pictures(run: runs.Run, folder: Path) -> None:
    results, data = magnet.evaluate(run, split="val", cached=True), run.config.data
    expressions = select_split(read_refer(data.root, data.name, data.split_by), "val")
    chosen = choose_examples(results, num_each=4)
    shown = [sent_id for name in ("successes", "failures") for sent_id in chosen[name]]
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"predictions": prediction_grid(load_examples(expressions, shown, results))}
    figures["curves"] = training_curves(run.log())
    for name, figure in figures.items():
        figure.savefig(folder / f"demo_{name}.png", dpi=100, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("results/tables/demo.csv"))
    options = parser.parse_args()
    found = {seed: finished_run(seed) for seed in options.seeds}
    table = pd.DataFrame([row(seed, run) for seed, run in found.items()])
    print(table.round(2).T.to_string())
    options.output.parent.mkdir(parents=True, exist_ok=True)
    table.round(3).to_csv(options.output, index=False)
    splits = [pd.read_csv(run.folder / "summary.csv").assign(seed=seed) for seed, run in found.items()]
    pd.concat(splits).round(3).to_csv(options.output.with_name("demo_splits.csv"), index=False)
    save_pictures(found[options.seeds[0]], Path("results/figures"))


if __name__ == "__main__":
    main()
