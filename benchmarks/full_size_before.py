"""A full-size MagNet (Swin-B, BERT-base, 480 px) at an earlier commit and now, in turns on one machine.

python benchmarks/full_size_before.py --before 2ca84c4 --output results/tables/full_size_before.csv      (12 minutes)

Both in float32, every measurement in a process of its own, as `full_size.py` has them: a forward pass of one picture,
and a training step of two with Mask Grounding in one pass. Medians of the rounds, and of the rounds' ratios.
"""

import statistics
import subprocess
import sys
from pathlib import Path

from before_after import two_trees
from measured import parser, report

WORKS = {  # how `fresh.Work` names them; the medians of so many, as the first ones of a process are slow
    "forward pass of 1": {"work": "forward", "rounds": 15},
    "training step of 2, one pass": {"work": "step", "batch_size": 2, "passes": 1, "rounds": 5},
}
CODE = """
import sys
sys.path.insert(0, "benchmarks")
from fresh import Work, measure
print(measure(Work(recipe="{recipe}", **{work}))["seconds"])
"""


def seconds(tree: Path, recipe: str, work: dict) -> float:
    command = [sys.executable, "-c", CODE.format(recipe=recipe, work=work)]
    said = subprocess.run(command, check=True, cwd=tree, capture_output=True, text=True).stdout
    return float(said.split()[-1])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--before", required=True, help="a commit")
    options.add_argument("--recipe", default="magnet_base")
    options.add_argument("--rounds", type=int, default=3)
    options, rows = options.parse_args(), []
    with two_trees(options.before) as trees:
        for what, work in WORKS.items():
            rounds = [
                {name: seconds(tree, options.recipe, work) for name, tree in trees.items()}
                for _ in range(options.rounds)
            ]
            for name in trees:
                commit = options.before if name == "before" else "now"
                rows.append((f"{what}, {name} ({commit})", statistics.median(one[name] for one in rounds), "s"))
            ratio = statistics.median(one["before"] / one["after"] for one in rounds)
            rows.append((f"{what}: before over after", ratio, "times"))
    report(rows, options.output)


if __name__ == "__main__":
    main()
