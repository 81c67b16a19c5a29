"""The table of learning curves: means over the logs in results/runs, and what it says where there are none."""

import json
import sys

import pytest
import study_curves

from magnet import runs
from magnet.workbench.study import Study

STUDY = Study(
    name="toy", claim="c", refuted_by="r", variants={"plain": {}, "later": {"init": "plain"}}, num_steps=50,
    seeds=(0, 1, 2), splits=("val",),
)  # fmt: skip


def log(seed: int, losses: list[float], every: int = 10) -> None:
    config = STUDY.config("plain", seed)
    folder = runs.ROOT / f"{config.recipe}-{runs.config_hash(config)}"
    folder.mkdir(parents=True)
    lines = [{"step": every * i, "raw": {"dice": loss}} for i, loss in enumerate(losses, 1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 50}]))


def test_curves_are_means_over_the_finished_runs(run_root):
    log(0, [9, 7, 5, 3, 1])
    log(1, [19, 17, 15, 13, 11])
    log(2, [0, 0, 0])  # stopped at step 30
    table = study_curves.curves(STUDY)
    assert table[["variant", "step", "term", "count"]].values.tolist() == [
        ["plain", 25, "dice", 2], ["plain", 50, "dice", 2],
    ]  # fmt: skip
    assert table["mean"].tolist() == [(9 + 7 + 19 + 17) / 4, (5 + 3 + 1 + 15 + 13 + 11) / 6]


def test_without_runs_it_says_what_is_needed(run_root, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["study_curves.py", "components"])
    with pytest.raises(SystemExit, match=r"no finished run of components in .*runs: copy .*: magnet ablate components"):
        study_curves.main()
