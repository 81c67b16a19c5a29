"""Sentences that mean nothing, or several objects: both ways to say "nothing", trained and scored by gRefCOCO's rules.

python benchmarks/no_target.py --output results/tables/no_target.csv      (about 20 minutes on two cores)

The shipped network goes on for 500 steps in which a fifth of the scenes are spoken of by sentences that mean nothing
and a fifth by sentences that mean several objects: once with "area", once with "head" (magnet/models/no_target.py).
Rows: the shipped network as it is, with the area rule alone, and both trained ones; on RefShapes' special splits, on
val, and on the three together, as gRefCOCO mixes them. cIoU, gIoU, N-acc (sentences that mean nothing and are answered
so) and T-acc (the others, answered by some mask), percent with 95 % intervals over pictures.
"""

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
from measured import parser

import magnet
from magnet import runs
from magnet.config import Config
from magnet.data import read_refer, select_split
from magnet.evaluate import score_expressions
from magnet.metrics import PROTOCOLS
from magnet.refshapes import write_refshapes
from magnet.workbench.benchmark import write_table
from magnet.workbench.surgery import with_fresh_parts

START, STEPS = "refshapes-tiny", 500
SPLITS = ("no_target", "multi_target", "val")
NAMES = {"oIoU": "cIoU", "mIoU": "gIoU", "N-acc": "N-acc", "T-acc": "T-acc"}  # as gRefCOCO calls them


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--root", type=Path, default="data/special", help="where RefShapes with these splits lies")
    options.add_argument("--steps", type=int, default=STEPS)
    options = options.parse_args()
    write_refshapes(options.root, "small", special_splits=True, num_workers=2)
    start, rows = runs.find(START), []
    models = {"refshapes-tiny": with_rule(start, "none"), "refshapes-tiny, area": with_rule(start, "area")}
    for way in ("area", "head"):
        models[f"trained, {way}"] = trained(start, way, options.steps, options.root).load_model()
    for name, model in models.items():
        rows += [{"model": name, **row} for row in scores(model, start, options.root)]
    table = pd.DataFrame(rows)
    print(table[["model", "split", "n", *NAMES.values()]].round(1).to_string(index=False))
    if options.output:
        write_table(table, options.output, shlex.join(["python", *sys.argv]))


def trained(start: runs.Run, way: str, steps: int, root: Path) -> runs.Run:
    """The finished run that began with the shipped weights; with "head", the head begins with random ones."""
    config = settings(start.config, way, steps, root)
    return magnet.fit(config, init=with_fresh_parts(start, config, fresh=["target"]))


def settings(config: Config, way: str, steps: int, root: Path) -> Config:
    """A quarter of the recipe's rate, as weights are near where they shall be; no easy sentences first."""
    data = replace(config.data, root=str(root), easy_first=0, no_target_share=0.2, multi_target_share=0.2)
    optim = replace(config.optim, lr=config.optim.lr / 4, num_steps=steps, val_every=steps)
    vision = replace(config.model.vision, pretrained=None)
    terms = config.losses | ({"no_target": 1.0} if way == "head" else {})
    return replace(
        config, recipe=f"no_target_{way}", data=data, optim=optim, losses=terms,
        model=replace(config.model, vision=vision, no_target=way),
    )  # fmt: skip


def with_rule(run: runs.Run, rule: str):
    """The run's network, answering under another rule that has no weights."""
    model = magnet.build_model(replace(run.network, no_target=rule))
    runs.load_weights(model, run.weights)
    return model.eval()


def scores(model, start: runs.Run, root: Path) -> list[dict]:
    data = replace(start.config.data, root=str(root))
    table = read_refer(data.root, data.name, data.split_by)
    parts = {split: select_split(table, split) for split in SPLITS}
    options = (data, start.config.model.language.vocabulary, [PROTOCOLS["gres"]])
    results = {split: score_expressions(model, part, *options, progress=False)[0] for split, part in parts.items()}
    whole = pd.concat(results.values(), ignore_index=True)
    whole.attrs = results["val"].attrs
    return [{"split": split, **summary(one)} for split, one in {**results, "together": whole}.items()]


def summary(table: pd.DataFrame) -> dict[str, float]:
    found = magnet.summarize(table)
    ends = ("", "_low", "_high")
    return {"n": found["n"], **{f"{name}{end}": found[f"{own}{end}"] for own, name in NAMES.items() for end in ends}}


if __name__ == "__main__":
    main()
