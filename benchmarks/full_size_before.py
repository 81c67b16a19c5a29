"""A full-size MagNet (Swin-B, BERT-base, 480 px) at an earlier commit and now, in turns on one machine.

python benchmarks/full_size_before.py --before 9175db8 --output results/tables/full_size_before.csv      (20 minutes)

A forward pass of one picture, and a training step of two with Mask Grounding in one pass, in float32, and in bfloat16
where the hardware multiplies that. Every measurement is a process of its own, and the median of several in it, as its
first ones are slow; such processes take turns. Medians of the turns, and of their ratios.
"""

import statistics
import subprocess
import sys
from pathlib import Path

import torch
from before_after import two_trees
from measured import parser, report

from magnet.optimizer import has_bfloat16

WORKS = {  # as `fresh.Work` names them
    "forward pass of 1": {"work": "forward", "rounds": 15},
    "training step of 2, one pass": {"work": "step", "batch_size": 2, "passes": 1, "rounds": 5},
}
CODE = """
import sys
import torch
sys.path.insert(0, "benchmarks")
from fresh import Work, measure
work = Work(recipe="{recipe}", **{work})
with torch.autocast("cpu", torch.bfloat16, enabled=work.work == "forward" and work.precision == "bfloat16"):
    print(measure(work)["seconds"])  # weights become bfloat16 once, as in an evaluation
"""


def in_bfloat16() -> dict[str, dict]:
    native = has_bfloat16(torch.device("cpu"))
    return {f"{what}, bfloat16": {**work, "precision": "bfloat16"} for what, work in WORKS.items() if native}


def seconds(tree: Path, recipe: str, work: dict) -> float:
    command = [sys.executable, "-c", CODE.format(recipe=recipe, work=work)]
    said = subprocess.run(command, check=True, cwd=tree, stdout=subprocess.PIPE, text=True).stdout
    return float(said.split()[-1])


def compared(what: str, rounds: list[dict[str, float]], commit: str) -> list[tuple[str, float, str]]:
    """`rounds`: seconds "before" and "after", a row a round."""
    rows = [
        (f"{what}, {name} ({commit if name == 'before' else 'now'})", statistics.median(r[name] for r in rounds), "s")
        for name in ("before", "after")
    ]
    ratio = statistics.median(one["before"] / one["after"] for one in rounds)
    return [*rows, (f"{what}: before over after", ratio, "times")]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--before", required=True, help="a commit that has benchmarks/fresh.py")
    options.add_argument("--recipe", default="magnet_base")
    options.add_argument("--rounds", type=int, default=3)
    options, rows = options.parse_args(), []
    with two_trees(options.before) as trees:
        for what, work in (WORKS | in_bfloat16()).items():
            rounds = [
                {name: seconds(tree, options.recipe, work) for name, tree in trees.items()}
                for _ in range(options.rounds)
            ]
            rows += compared(what, rounds, options.before)
    report(rows, options.output)


if __name__ == "__main__":
    main()
