"""Training that is killed, stopped, or spread over processes ends in the same weights and says what became of it."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import PARTS, same_weights, tiny_config

import magnet
from magnet import processes, runs
from magnet.config import GroundingConfig

TESTS = Path(__file__).parents[1]

SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import dataclasses
import magnet
from conftest import tiny_config
from magnet import runs, train
from magnet.config import AlignmentConfig, GroundingConfig
runs.ROOT = Path({root!r})
after, sent = train.Trainer._after_step, {signal}
def interrupted(self, bar):
    if self.step == {step}:
        os.kill(os.getpid(), sent)
    after(self, bar)
train.Trainer._after_step = interrupted
magnet.fit(dataclasses.replace(tiny_config(**{optim}), **{parts}), progress=False)
"""


def script_for(root: Path, step: int = -1, sent: int = signal.SIGKILL, parts=(), **optim) -> Path:
    script = root.with_suffix(".py")
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(
        SCRIPT.format(tests=str(TESTS), root=str(root), step=step, signal=int(sent), optim=optim, parts=dict(parts))
    )
    return script


def start(root: Path, *interruption, launcher=(sys.executable,), **settings):
    script = script_for(root, *interruption, **settings)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launcher, str(script)], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed") / "runs"
    done = start(root)
    assert done.returncode == 0, done.stderr
    return next(root.glob("*"))


@pytest.fixture(scope="module")
def undisturbed_with_parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed_with_parts") / "runs"
    done = start(root, parts=PARTS)
    assert done.returncode == 0, done.stderr
    return next(root.glob("*"))


def test_kill_nine_at_three_random_steps_ends_in_the_same_weights(tmp_path, undisturbed):
    root = tmp_path / "runs"
    for step in sorted(random.sample(range(1, 12), 3)):
        assert start(root, step).returncode == -signal.SIGKILL
    assert start(root).returncode == 0
    folder = next(root.glob("*"))
    assert same_weights(folder, undisturbed)
    steps = [line["step"] for line in runs.read_run(folder).log() if "loss" in line]
    assert steps == list(range(1, 13)), "steps taken twice are logged once"


def test_training_only_parts_go_on_bit_for_bit_too(tmp_path, undisturbed_with_parts):
    root = tmp_path / "runs"
    assert start(root, 6, parts=PARTS).returncode == -signal.SIGKILL
    assert start(root, parts=PARTS).returncode == 0
    assert same_weights(next(root.glob("*")), undisturbed_with_parts)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_says_how_to_go_on_and_goes_on(tmp_path, undisturbed, sent):
    root = tmp_path / "runs"
    stopped = start(root, 7, sent)
    assert "stopped at step 7 of 12" in stopped.stderr and "The same command goes on" in stopped.stderr
    assert start(root).returncode == 0
    assert same_weights(next(root.glob("*")), undisturbed)


LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
          "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")  # fmt: skip


def logged(root: Path, **settings) -> list[dict]:
    done = start(root, num_steps=20, val_every=20, **settings)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (next(root.glob("*")) / "log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


@pytest.fixture(scope="module")
def curve_of_one(tmp_path_factory):
    return [line["loss"] for line in logged(tmp_path_factory.mktemp("one") / "runs", num_processes=1)]


def test_processes_of_its_own_follow_the_curve_of_one(tmp_path, curve_of_one):
    """`num_processes` of the configuration: no launcher."""
    two = [line["loss"] for line in logged(tmp_path / "runs", num_processes=2)]
    assert len(two) == 20 and two == pytest.approx(curve_of_one, abs=1e-4)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_processes_of_its_own_stop_where_they_are_told(tmp_path, sent):
    """Ctrl-C reaches them all."""
    root = tmp_path / "runs"
    endless = script_for(root, num_steps=4000, val_every=4000, num_processes=2)
    running = subprocess.Popen([sys.executable, str(endless)], stderr=subprocess.PIPE, text=True)
    while not (log := next(root.glob("*/log.jsonl"), None)) or not log.read_text():
        time.sleep(0.1)
    running.send_signal(sent)
    assert re.search(r"stopped at step \d+ of 4000; all is saved", running.communicate(timeout=120)[1])
    assert running.returncode and next(root.glob("*/checkpoint/last.safetensors")).exists()


def test_processes_end_with_the_one_that_started_them(tmp_path):
    root = tmp_path / "runs"
    running = subprocess.Popen([sys.executable, str(script_for(root, num_steps=4000, val_every=4000, num_processes=2))])
    while not (log := next(root.glob("*/log.jsonl"), None)) or not log.read_text():
        time.sleep(0.1)
    workers = psutil.Process(running.pid).children()
    assert len(workers) == 2
    running.kill()
    assert not psutil.wait_procs(workers, timeout=60)[1]


@pytest.mark.parametrize(
    "script, kind, message",
    [
        ("kill -9 $$", RuntimeError, "was killed by signal 9, often for lack of memory; the same command goes on"),
        ("exit 3", RuntimeError, "ended with code 3"),
        ("echo 'magnet error: MemoryError: 8 pictures' >&2; echo 'destroy_process_group() was not called' >&2; exit 1",
         MemoryError, "a process of the training failed: 8 pictures"),
    ],
)  # fmt: skip
def test_a_process_that_dies_is_a_failure(run_root, monkeypatch, script, kind, message):
    def begin(run, port, rank, num, errors):
        return subprocess.Popen(["sh", "-c", script if rank else "sleep 60"], stderr=errors)

    monkeypatch.setattr(processes, "_start", begin)
    run = runs.open_run(tiny_config(num_steps=4, num_processes=2))
    with pytest.raises(kind, match=message):
        processes.train_in_processes(run, 2, [], progress=False)


def test_warnings_of_a_process_are_passed_on(run_root, monkeypatch, caplog):
    def begin(run, port, rank, num, errors):
        return subprocess.Popen(["sh", "-c", "echo 'magnet warning: no compiler' >&2"], stderr=errors)

    monkeypatch.setattr(processes, "_start", begin)
    processes.train_in_processes(runs.open_run(tiny_config(num_steps=4, num_processes=2)), 2, [], progress=False)
    assert [record.getMessage() for record in caplog.records] == ["no compiler"]  # once, not for each of them


def test_a_process_that_fails_says_why(run_root):
    config = tiny_config(num_steps=4, num_processes=2, lr=1e30, clip_norm=None)
    with pytest.raises(FloatingPointError, match=r"a process of the training failed: .*not finite"):
        magnet.fit(config, progress=False)


@pytest.mark.parametrize("parts", [{}, {**PARTS, "grounding": GroundingConfig(weight=0.0)}], ids=["plain", "parts"])
def test_two_processes_follow_the_curve_of_one(tmp_path, parts):
    """Hidden words are drawn in each process, so Mask Grounding runs here without a weight in the loss."""
    curves = [[line["loss"] for line in logged(tmp_path / name, launcher=launcher, parts=parts)]
              for name, launcher in (("one", (sys.executable,)), ("two", LAUNCH))]  # fmt: skip
    assert len(curves[0]) == 20 and curves[1] == pytest.approx(curves[0], abs=1e-4)
