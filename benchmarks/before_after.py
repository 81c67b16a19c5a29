"""Training speed of a recipe at an earlier commit and now, in turns on one machine, data and all.

python benchmarks/before_after.py --before fd6ba35 --output results/tables/before_after.csv      (about 8 minutes)

A training of a few steps and one that goes on for a block of scenes take turns; the difference of their times is what
the block's 6,144 sentences took, without start and validation. Rows: sentences/s of each, median and best of the
rounds, and the ratio, median of the rounds' ratios.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measured import parser, report

ROOT = Path(__file__).parents[1]
FEW, BLOCK = 8, 6144
CODE = """
import sys
from dataclasses import replace
from pathlib import Path
import magnet
from magnet import runs

recipe, folder, data, block = sys.argv[1:]
config, runs.ROOT = magnet.recipe(recipe), Path(folder)
per_step = config.optim.batch_size * getattr(config.data, "sentences_per_image", 1)
steps = {few} + int(block) // per_step
vision = replace(config.model.vision, pretrained=None)
magnet.fit(replace(
    config, model=replace(config.model, vision=vision), data=replace(config.data, root=data),
    optim=replace(config.optim, num_steps=steps, val_every=steps, val_expressions=8),
), progress=False)
"""


def seconds(tree: Path, recipe: str, sentences: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CODE.format(few=FEW), recipe, folder, str(ROOT / "data"), str(sentences)]
        began = time.perf_counter()
        subprocess.run(command, check=True, cwd=tree, stderr=subprocess.DEVNULL)
        return time.perf_counter() - began


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--before", required=True, help="a commit")
    options.add_argument("--recipe", default="magnet_tiny")
    options.add_argument("--rounds", type=int, default=3)
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "worktree", "add", "--quiet", folder, options.before], check=True, cwd=ROOT)
        try:
            trees = {"before": Path(folder), "after": ROOT}
            speeds = [
                {
                    name: BLOCK / (seconds(tree, options.recipe, BLOCK) - seconds(tree, options.recipe, 0))
                    for name, tree in trees.items()
                }
                for _ in range(options.rounds)
            ]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], check=True, cwd=ROOT)
    rows = [
        (f"{options.recipe} {name} ({options.before if name == 'before' else 'now'}), {what}", f(values), "sentences/s")
        for name in trees
        for what, f in (("median", statistics.median), ("best", max))
        if (values := [speed[name] for speed in speeds])
    ]
    ratio = statistics.median(speed["after"] / speed["before"] for speed in speeds)
    report([*rows, (f"{options.recipe}, after / before", ratio, "ratio")], options.output)


if __name__ == "__main__":
    main()
