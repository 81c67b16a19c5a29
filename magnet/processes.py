"""A training shared by processes on one machine's CPU: each takes a part of every batch, gradients are averaged.

At tiny sizes a step is thousands of small operations, which two threads of one process shared badly and two processes
of one thread well in results/tables/speed_trials.csv (bfloat16, an earlier network). In results/tables/scaling.csv
(float32, the present one) they take as long and twice the memory. On GPUs `accelerate launch` does the same.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from accelerate import Accelerator
from tqdm import tqdm

from magnet import memory, runs
from magnet.evaluate import progress_bar

_CHECK_EVERY = 0.5  # seconds
_ERROR, _STOPPED, _WARNING = "magnet error: ", "magnet stopped: ", "magnet warning: "  # how a process's lines begin
_logger = logging.getLogger(__name__)
_KINDS = {kind.__name__: kind for kind in (FloatingPointError, MemoryError, ValueError, FileNotFoundError, OSError)}


def train_in_processes(run: runs.Run, num_processes: int, stop: list[int], progress: bool) -> None:
    """Go on from a run's checkpoint until it is finished, or until `stop` is filled, by `stop_signals`.

    Raises KeyboardInterrupt once all is saved, and what a process that failed says in its last line.
    """
    total, start = run.config.optim.num_steps, _last_entry(run).get("step", 0)
    with ExitStack() as stack, progress_bar(progress, total=total, initial=start, unit="step") as bar:
        errors = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(num_processes)]
        memory.give_back()  # this process waits from here on
        port = _free_port()
        workers = [_start(run, port, rank, num_processes, file) for rank, file in enumerate(errors)]
        try:
            while not stop and any(worker.poll() is None for worker in workers) and not _failed(workers):
                time.sleep(_CHECK_EVERY)
                _show(bar, _last_entry(run))
        finally:
            codes = [worker.poll() for worker in workers]  # before the others are ended
            _end(workers, killed=_failed(workers), told=bool(stop))
        _pass_on(errors[0])
        if stop:
            raise KeyboardInterrupt(_said(errors[0], _STOPPED) or f"stopped; all that was saved is in {run.folder}")
        _raise_failure(codes if any(codes) else [worker.returncode for worker in workers], errors)


def _raise_failure(codes: list[int], errors: list) -> None:
    """What the process that failed by itself says; the others, killed because of it, say nothing."""
    for file in errors:
        if said := _said(file, _ERROR):
            kind, _, text = said.partition(": ")
            raise _KINDS.get(kind, RuntimeError)(f"a process of the training failed: {text}")
    if any(codes):
        code = next(code for code in codes if code)
        how = f"was killed by signal {-code}, often for lack of memory" if code < 0 else f"ended with code {code}"
        raise RuntimeError(f"a process of the training {how}; the same command goes on from the last checkpoint")


def _pass_on(file) -> None:
    """Warnings of the first process, which are those of all."""
    for line in _lines(file):
        if line.startswith(_WARNING):
            _logger.warning(line.removeprefix(_WARNING))


def _said(file, mark: str) -> str:
    return next((line.removeprefix(mark) for line in _lines(file) if line.startswith(mark)), "")


def _failed(workers: list[subprocess.Popen]) -> bool:
    return any(worker.poll() for worker in workers)


def _end(workers: list[subprocess.Popen], killed: bool, told: bool) -> None:
    for worker in workers:
        if killed:  # the others of a failed one wait for it in vain
            worker.kill()
        elif told:
            worker.terminate()  # they save, and say so
    for worker in workers:
        worker.wait()


def _start(run: runs.Run, port: int, rank: int, num: int, errors) -> subprocess.Popen:
    """One process, out of reach of the terminal's Ctrl-C, which is the first process's to pass on."""
    threads = max(1, (os.cpu_count() or num) // num)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    settings = {name: str(value) for name, value in (place | {"OMP_NUM_THREADS": threads}).items()}
    command = [sys.executable, "-m", "magnet.processes", str(run.folder)]
    environment = os.environ | settings | {"ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(command, env=environment, stderr=errors, start_new_session=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _show(bar: tqdm, entry: dict) -> None:
    if "loss" in entry:
        bar.set_postfix(loss=f"{entry['loss']:.4f}", refresh=False)
    bar.update(entry.get("step", 0) - bar.n)


def _last_entry(run: runs.Run) -> dict:
    path = run.folder / "log.jsonl"
    if not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().split(b"\n")[:-1]  # behind the last end of line is what is being written
    return json.loads(lines[-1]) if len(lines) > 1 else {}


def _lines(file) -> list[str]:
    file.seek(0)
    return file.read().splitlines()


def main() -> None:
    from magnet.train import Trainer, stop_signals

    logging.basicConfig(format=f"{_WARNING}%(message)s", level=logging.WARNING)
    threading.Thread(target=_end_with_parent, args=[os.getppid()], daemon=True).start()
    try:
        with stop_signals() as stop:
            Trainer(runs.read_run(Path(sys.argv[1])), Accelerator(), None, progress=False).train(stop)
    except KeyboardInterrupt as stopped:
        sys.exit(f"{_STOPPED}{stopped}")
    except Exception as error:  # told on one line: libraries may warn behind it
        text = " ".join(str(error).split("\n"))
        print(f"\n{_ERROR}{type(error).__name__}: {text}", file=sys.stderr, flush=True)
        raise


def _end_with_parent(parent: int) -> None:
    """Whoever started this was killed: save and end, as on SIGTERM."""
    while os.getppid() == parent:
        time.sleep(_CHECK_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
