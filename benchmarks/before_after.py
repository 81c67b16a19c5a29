"""Training speed of a recipe at an earlier commit and now, in turns on one machine, data and all.

python benchmarks/before_after.py --before fd6ba35 --output results/tables/before_after.csv      (about 8 minutes)
python benchmarks/before_after.py --before fd6ba35 --same-settings --output results/tables/before_after_code.csv

The second asks what the code alone is worth: both train the earlier commit's recipe, so the same network on the same
batches; the largest difference between their losses is a row, too.

A training of a few steps and one that goes on for a block of scenes take turns; the difference of their times is what
the block's 6,144 sentences took, without start and validation. Rows: sentences/s of each, median and best of the
rounds, and the ratio, median of the rounds' ratios.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measured import parser, report

ROOT = Path(__file__).parents[1]
FEW, BLOCK = 8, 6144
SETTINGS = "import json, magnet; print(json.dumps(magnet.runs.config_to_dict(magnet.recipe('{recipe}'))))"
CODE = """
import json
import sys
from dataclasses import replace
from pathlib import Path
import magnet
from magnet import runs

settings, folder, data, block = sys.argv[1:]
config, runs.ROOT = runs.config_from_dict(json.loads(settings)), Path(folder)
per_step = config.optim.batch_size * getattr(config.data, "sentences_per_image", 1)
steps = {few} + int(block) // per_step
vision = replace(config.model.vision, pretrained=None)
magnet.fit(replace(
    config, model=replace(config.model, vision=vision), data=replace(config.data, root=data),
    optim=replace(config.optim, num_steps=steps, val_every=steps, val_expressions=8),
), progress=False)
"""


@contextmanager
def two_trees(commit: str) -> Iterator[dict[str, Path]]:
    """The repository at that commit, "before", and as it is, "after"."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "worktree", "add", "--quiet", folder, commit], check=True, cwd=ROOT)
        try:
            yield {"before": Path(folder), "after": ROOT}
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], check=True, cwd=ROOT)


def settings(tree: Path, recipe: str) -> str:
    """The recipe's configuration as that tree has it, as JSON."""
    command = [sys.executable, "-c", SETTINGS.format(recipe=recipe)]
    return subprocess.run(command, check=True, cwd=tree, capture_output=True, text=True).stdout


def train(tree: Path, config: str, sentences: int) -> tuple[float, list[float]]:
    """Seconds of a training of a few steps and so many sentences more, and its losses."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CODE.format(few=FEW), config, folder, str(ROOT / "data"), str(sentences)]
        began = time.perf_counter()
        subprocess.run(command, check=True, cwd=tree, stderr=subprocess.DEVNULL)
        taken = time.perf_counter() - began
        (log,) = Path(folder).glob("*/log.jsonl")
        lines = map(json.loads, log.read_text().splitlines())
        return taken, [line["loss"] for line in lines if "loss" in line]


def measure(trees: dict[str, Path], configs: dict[str, str], rounds: int) -> tuple[list[dict], float]:
    """Sentences/s of each tree, a row a round; the largest difference between their losses in the few steps."""
    speeds = []
    for _ in range(rounds):
        few = {name: train(tree, configs[name], 0) for name, tree in trees.items()}
        more = {name: train(tree, configs[name], BLOCK) for name, tree in trees.items()}
        speeds.append({name: BLOCK / (more[name][0] - few[name][0]) for name in trees})
    return speeds, max(abs(a - b) for a, b in zip(few["before"][1], few["after"][1]))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--before", required=True, help="a commit")
    options.add_argument("--recipe", default="magnet_tiny")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--same-settings", action="store_true", help="both train the earlier commit's recipe")
    options = options.parse_args()
    with two_trees(options.before) as trees:
        configs = {name: settings(tree, options.recipe) for name, tree in trees.items()}
        if options.same_settings:
            configs["after"] = configs["before"]
        speeds, difference = measure(trees, configs, options.rounds)
    rows = [
        (f"{options.recipe} {name} ({options.before if name == 'before' else 'now'}), {what}", f(values), "sentences/s")
        for name in trees
        for what, f in (("median", statistics.median), ("best", max))
        if (values := [speed[name] for speed in speeds])
    ]
    ratio = statistics.median(speed["after"] / speed["before"] for speed in speeds)
    rows.append((f"{options.recipe}, after / before", ratio, "ratio"))
    if options.same_settings:
        rows.append((f"largest difference of the losses in {FEW} steps", difference, "of the loss"))
    report(rows, options.output)


if __name__ == "__main__":
    main()
