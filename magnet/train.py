"""Training: `fit` makes a run, or finds the finished run of the same configuration.

Each step is a pure function of (seed, step): batch, sentence, dropout. So a run killed at any moment goes on from its
last checkpoint to the same weights, bit for bit on a CPU, and no random state has to be stored.
"""

import hashlib
import json
import logging
import math
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm import tqdm

from magnet import data, losses, runs
from magnet.config import Config, DataConfig, ModelConfig
from magnet.data.sampler import StepSampler
from magnet.evaluate import best_device, evaluate, ignore_interrupts, progress_bar
from magnet.memory import is_out_of_memory
from magnet.models.checkpoints import find_checkpoint, is_checkpoint
from magnet.models.released import load_released, released_config
from magnet.objective import Objective
from magnet.optimizer import build_optimizer, choose_precision, fix_frozen, learning_rate
from magnet.processes import train_in_processes
from magnet.statistics import summarize

_logger = logging.getLogger(__name__)


def fit(config: Config, init: "runs.Run | str | Path | None" = None, progress: bool = True) -> runs.Run:
    """Train `config`, go on where an earlier call was stopped, or return the finished run.

    Args:
        config: a whole run, from `magnet.recipe`.
        init: a run, a run folder or released weights (a file, or its name on the hub) to start from; None: as the
            model configuration says.
        progress: show a bar with the time left.
    Raises FloatingPointError where a loss is not finite, KeyboardInterrupt on Ctrl-C or SIGTERM once all is saved.
    """
    start, fingerprint = _initial_weights(init)
    accelerator = Accelerator(mixed_precision="no", cpu=best_device().type == "cpu")  # on no other kind of device
    with accelerator.main_process_first():
        run = runs.open_run(config, fingerprint)
    if not run.is_finished:
        trainer = Trainer(run, accelerator, start, progress)
        with stop_signals() as stop:
            if _is_shared(config, accelerator):
                trainer.save()  # all of them begin with it
                del trainer
                accelerator.free_memory()
                train_in_processes(run, config.optim.num_processes, stop, progress)
            else:
                trainer.train(stop)
    return run


def _is_shared(config: Config, accelerator: Accelerator) -> bool:
    """Whether this machine's CPU is shared by processes that `fit` starts itself."""
    return config.optim.num_processes > 1 and accelerator.num_processes == 1 and accelerator.device.type == "cpu"


def _initial_weights(init) -> tuple[dict | None, str | None]:
    """The tensors to start from and a fingerprint of them for the run's hash."""
    if init is None:
        return None, None
    path = _initial_file(init)
    tensors = runs.read_tensors(path) if path.suffix == ".safetensors" else load_released(path).state_dict()
    with path.open("rb") as file:
        return tensors, hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _initial_file(init) -> Path:
    if is_checkpoint(init):
        return find_checkpoint(init)
    return Path(init) if not isinstance(init, runs.Run) and Path(init).is_file() else runs.find(init).checked_weights()


def initial_model(init: "runs.Run | str | Path") -> ModelConfig | None:
    """The network that `init`, as `fit` takes it, was made for; None for bare weights that do not say."""
    if is_checkpoint(init):
        return released_config(init).model
    if not isinstance(init, runs.Run) and Path(init).is_file() and not (Path(init).parent / "config.json").exists():
        return None
    return runs.find(init).network


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM only fill a list, which the training loop reads between two steps."""
    received, is_main = [], threading.current_thread() is threading.main_thread()  # others cannot handle signals
    handled = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    previous = {number: signal.signal(number, lambda number, _: received.append(number)) for number in handled}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _check_settings(config: Config) -> None:
    optim = config.optim
    least = {"optim.batch_size": optim.batch_size, "optim.num_steps": 1 if optim.num_steps is None else optim.num_steps}
    if config.model.vision.pretrained == "refshapes":
        least["model.vision.pretraining_steps"] = config.model.vision.pretraining_steps
    least |= {"log_every": config.log_every, "checkpoint_every": config.checkpoint_every}
    least |= {"optim.micro_batch": optim.micro_batch, "optim.val_every": optim.val_every}
    least |= {"optim.num_processes": optim.num_processes, "data.image_size": config.data.image_size}
    for name, value in least.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: at least 1 is needed")
    if optim.warmup_steps < 0 or not optim.lr >= 0:
        raise ValueError(f"optim.warmup_steps={optim.warmup_steps}, optim.lr={optim.lr}: neither may be below 0")


def _check_validation_split(settings: DataConfig) -> None:
    """Before the first step, since fresh scenes need no file until the first validation."""
    table = data.read_refer(settings.root, settings.name, settings.split_by, settings.polygon_overlap)
    data.select_split(table, settings.val_split)


class Trainer:
    """One training in progress: objective, optimiser, batches, and where it stands.

    `objective` may be wrapped for several processes; `model` is the network alone.
    """

    def __init__(self, run: runs.Run, accelerator: Accelerator, start: dict | None, progress: bool):
        self.run, self.accelerator, self.shown = run, accelerator, progress and accelerator.is_main_process
        config = self.config = run.config
        _check_settings(config)
        if accelerator.is_main_process:
            for stale in run.folder.rglob(".*.tmp"):  # of a process killed while it saved
                stale.unlink()
        torch.manual_seed(config.seed)
        objective = Objective(config)
        self.model, self.weights = objective.model, objective.weights
        optimizer = build_optimizer(objective, config.optim)
        fix_frozen(objective)
        self.dataset = data.training_set(config.data, config.model.language.vocabulary, config.seed)
        _check_validation_split(config.data)
        self.num_steps = self._count_steps()
        self.precision = choose_precision(config.optim, accelerator.device)
        if config.model.language.pretrained and accelerator.is_main_process:
            runs.write_json(run.language, self.model.language.settings())
        self.step, self.best = 0, -1.0
        shared = config.optim.num_processes if _is_shared(config, accelerator) else accelerator.num_processes
        self._sampler(0, shared)  # whether a batch divides, before anything takes long
        self._start_from(start)
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        self.compiled = _compile(self.objective) if config.optim.compile else None
        self.unwritten: list[tuple[dict, dict[str, torch.Tensor]]] = []
        self._restore()

    def _start_from(self, start: dict | None) -> None:
        """Last of all preparations: a backbone may have to learn first, minutes that a wrong setting would lose."""
        vision = self.config.model.vision
        if start is not None:
            runs.fill(self.model, start, "init")
        elif vision.pretrained == "refshapes" and not self.run.checkpoint.exists():
            from magnet.refshapes.pretrain import pretrained_file

            with self.accelerator.main_process_first():
                file = pretrained_file(vision, self.precision, self.shown, self.config.model.pad_then_roll)
            runs.fill(self.model.vision.body, runs.read_tensors(file), file)

    def _count_steps(self) -> int:
        optim = self.config.optim
        if optim.num_steps is not None:
            return optim.num_steps
        if self.config.data.fresh:
            raise ValueError("fresh scenes have no end, so an epoch has no length; set --optim.num-steps")
        return math.ceil(optim.num_epochs * len(self.dataset) / optim.batch_size)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def train(self, stop: list[int]) -> None:
        sampler = self._sampler(self.accelerator.process_index, self.accelerator.num_processes)
        self.accelerator.gradient_accumulation_steps = sampler.num_micro
        batches = iter(self._loader(sampler))
        with progress_bar(self.shown, total=self.num_steps, initial=self.step, unit="step") as bar:
            while self.step < self.num_steps:
                self._train_step([next(batches) for _ in range(sampler.num_micro)])
                bar.update()
                self._after_step(bar)
                if self._must_stop(stop):
                    self._interrupt()
        if not self.run.weights.exists():  # deleted since, or no validation scored above zero
            self.best = -1.0
            self._validate()
        self._finish()

    def _sampler(self, process: int, num_processes: int) -> StepSampler:
        config = self.config
        items, steps = (len(self.dataset), not config.data.fresh), (self.step, self.num_steps)
        return StepSampler(*items, config.seed, *steps, config.optim, process, num_processes)

    def _loader(self, sampler: StepSampler) -> DataLoader:
        return DataLoader(
            self.dataset, batch_sampler=sampler, collate_fn=data.collate, num_workers=self.config.data.num_workers,
            worker_init_fn=ignore_interrupts, pin_memory=self.accelerator.device.type == "cuda",
        )  # fmt: skip

    def _train_step(self, batches: list[dict]) -> None:
        began = time.perf_counter()
        rate = learning_rate(self.config.optim, self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        parts = self._parts(batches)
        values = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        self.step += 1
        speed, fresh = self.config.optim.batch_size / (time.perf_counter() - began), self.config.data.fresh
        speeds = {"images_per_second": round(speed, 2)}
        speeds["sentences_per_second"] = round(speed * (self.config.data.sentences_per_image if fresh else 1), 2)
        self.unwritten.append(({"step": self.step, "lr": rate, **speeds, "memory_gb": _memory_gb()}, values))

    def _parts(self, batches: list[dict]) -> list[dict[str, torch.Tensor]]:
        """The losses of a step's micro-batches. What does not compile shows in either pass: then all is done again."""
        try:
            return self._losses(batches)
        except RuntimeError as error:
            if self.compiled is None:
                raise
            _say_not_compiled(error)
        self.compiled = None
        self.objective.zero_grad()
        self.accelerator.step = 0  # micro-batches so far
        return self._losses(batches)

    def _losses(self, batches: list[dict]) -> list[dict[str, torch.Tensor]]:
        torch.manual_seed(hash((self.config.seed, self.step, self.accelerator.process_index)))
        return [self._within_memory(batch) for batch in batches]

    def _within_memory(self, batch: dict) -> dict[str, torch.Tensor]:
        try:
            return self._forward_backward(batch)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise MemoryError(self._too_large(batch)) from error
            raise

    def _forward_backward(self, batch: dict) -> dict[str, torch.Tensor]:
        """One micro-batch; returns the raw loss terms and statistics, detached."""
        batch = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}
        with self.accelerator.accumulate(self.objective):
            with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                terms, statistics = (self.compiled or self.objective)(batch)
            total = losses.weighted_sum(self.weights, terms)
            if self._looks_at_losses() and not torch.isfinite(total):
                self._refuse(batch, terms)
            self.accelerator.backward(total)
            if self.config.optim.clip_norm and self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.objective.parameters(), self.config.optim.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {name: value.detach().float() for name, value in (terms | statistics).items()}

    def _looks_at_losses(self) -> bool:
        """A CPU at every step; elsewhere asking for a value would make the device wait, so only where it is logged."""
        return self.accelerator.device.type == "cpu" or (self.step + 1) % self.config.log_every == 0

    def _too_large(self, batch: dict) -> str:
        size, images, sentences = self.config.data.image_size, len(batch["images"]), len(batch["token_ids"])
        fewer = f"--optim.micro-batch {images // 2}"
        if images == 1:
            fewer = f"--data.sentences-per-image {max(1, sentences // 2)}" if sentences > 1 else "a smaller network"
        is_on = self.config.model.gradient_checkpointing
        again = "a smaller backbone (--model.vision.name)" if is_on else "--model.gradient-checkpointing"
        return (
            f"out of memory with {images} pictures of {size} px and {sentences} sentences at once; try {fewer}, "
            f"a smaller --data.image-size, or {again}"
        )

    def _refuse(self, batch: dict, terms: dict) -> None:
        """Save the batch that gave a loss which is not finite, and stop."""
        if self.unwritten and self.accelerator.num_processes == 1:  # else the others would have to join in
            self._write_log()
        path = _save_tensors(self.run.folder / f"bad_batch_step{self.step + 1}.safetensors", batch)
        parameters = self.accelerator.unwrap_model(self.objective).named_parameters()
        named = next((name for name, p in parameters if not p.isfinite().all()), None)
        why = f"weights are not finite, first {named}" if named else "weights are finite"
        if not batch["images"].isfinite().all():
            why = "the images hold NaN or infinite values"
        bad = ", ".join(f"{name} = {value.item()}" for name, value in terms.items())
        raise FloatingPointError(
            f"loss not finite at step {self.step + 1}: {bad}; {why}. The batch is in {path} (expressions "
            f"{batch['sent_ids'].tolist()[:5]}...). Try a lower --optim.lr, --optim.clip-norm 1, "
            "--optim.precision float32"
        )

    # --- between steps ------------------------------------------------------------------------------------------------

    def _after_step(self, bar: tqdm) -> None:
        optim, last = self.config.optim, self.step == self.num_steps
        if last or self.step % self.config.log_every == 0:
            best = {"best": f"{self.best:.1f}"} if self.best >= 0 else {}  # nothing before the first validation
            bar.set_postfix(loss=f"{self._write_log():.4f}", **best, refresh=False)
        every = optim.val_every or max(1, round(self.num_steps / max(1.0, optim.num_epochs)))
        if last or self.step % every == 0:
            self._validate()
        if last or self.step % self.config.checkpoint_every == 0:
            self.save()

    def _write_log(self) -> float:
        """Append the lines since the last call, with losses averaged over processes; returns the newest total."""
        values = torch.stack([torch.stack(list(named.values())) for _, named in self.unwritten])
        rows = self.accelerator.reduce(values, "mean").tolist()
        lines = [self._log_line(line, dict(zip(named, row))) for (line, named), row in zip(self.unwritten, rows)]
        self.unwritten = []
        self._append(lines)
        return lines[-1]["loss"]

    def _log_line(self, line: dict, values: dict[str, float]) -> dict:
        raw = {name: values.pop(name) for name in self.weights}
        weighted = {name: weight * raw[name] for name, weight in self.weights.items()}
        return {**line, "loss": sum(weighted.values()), "raw": raw, "weighted": weighted, **values}

    def _append(self, lines: list[dict]) -> None:
        if not self.accelerator.is_main_process:
            return
        with (self.run.folder / "log.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        if self.config.tensorboard:
            self._write_tensorboard(lines)

    def _write_tensorboard(self, lines: list[dict]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.run.folder / "tensorboard") as writer:
            for line in lines:
                for name, value in (line | line.get("validation", {}) | line.get("raw", {})).items():
                    if not isinstance(value, dict):
                        writer.add_scalar(name, value, line["step"])

    def _validate(self) -> None:
        """Score the validation split; the weights with the best oIoU so far become model.safetensors."""
        if self.accelerator.is_main_process:
            options = {"num_expressions": self.config.optim.val_expressions, "precision": self.precision}
            split = self.config.data.val_split
            table = evaluate(self.model, split=split, config=self.config, progress=False, **options)
            scores = summarize(table, num_draws=0)
            self._append([{"step": self.step, "validation": {name: scores[name] for name in ("oIoU", "mIoU")}}])
            if scores["oIoU"] > self.best:
                self.best = scores["oIoU"]
                _save_tensors(self.run.weights, self.model.state_dict())
        self.accelerator.wait_for_everyone()

    def _must_stop(self, stop: list[int]) -> bool:
        """Whether any process was told to stop; several ask each other only when they log, as it makes them wait."""
        if self.accelerator.num_processes == 1:
            return bool(stop)
        if self.step % self.config.log_every:
            return False
        told = torch.tensor(float(bool(stop)), device=self.accelerator.device)
        return bool(self.accelerator.reduce(told, "sum") > 0)

    def _interrupt(self) -> None:
        self.save()
        raise KeyboardInterrupt(
            f"stopped at step {self.step} of {self.num_steps}; all is saved in {self.run.folder}. "
            "The same command goes on from there."
        )

    def _finish(self) -> None:
        if self.accelerator.is_main_process:
            runs.write_json(self.run.folder / "finished.json", {"steps": self.step, "best_oIoU": self.best})
        self.accelerator.wait_for_everyone()

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Everything needed to go on, as one safetensors file that replaces the previous one in one step."""
        if self.unwritten:
            self._write_log()  # or the steps before this one would be missing from the log of a killed run
        if not self.accelerator.is_main_process:
            return
        tensors = dict(self.accelerator.unwrap_model(self.objective).state_dict())
        if broken := [name for name, value in tensors.items() if not value.isfinite().all()]:
            raise FloatingPointError(
                f"weights not finite after step {self.step}, first {broken[0]}; the last checkpoint is kept. "
                "Try a lower --optim.lr, --optim.clip-norm 1, --optim.precision float32"
            )
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        position = {"step": str(self.step), "best": repr(self.best), "version": str(runs.VERSION)}
        _save_tensors(self.run.checkpoint, tensors, position)

    def _restore(self) -> None:
        """Go to the last checkpoint, if there is one; drop the log lines of steps that are taken again."""
        if self.run.checkpoint.exists():
            self._read_checkpoint(self.run.checkpoint)
        if self.accelerator.is_main_process:
            kept = [json.dumps(line) + "\n" for line in self.run.log() if line["step"] <= self.step]
            runs.atomic_write(self.run.folder / "log.jsonl", lambda file: file.write_text("".join(kept)))

    def _read_checkpoint(self, path: Path) -> None:
        tensors, state = runs.read_tensors(path), defaultdict(dict)
        with safe_open(path, "pt") as file:
            position = file.metadata()
        self.step, self.best = int(position["step"]), float(position["best"])
        for name in [name for name in tensors if name.startswith("optimizer.")]:
            _, index, key = name.split(".")
            value = tensors.pop(name)
            layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format  # as the weights have it
            state[int(index)][key] = value.contiguous(memory_format=layout)
        runs.fill(self.accelerator.unwrap_model(self.objective), tensors, path)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def _compile(objective: torch.nn.Module) -> Callable | None:
    """None where this machine's torch does not compile at all."""
    try:
        return torch.compile(objective)
    except RuntimeError as error:
        _say_not_compiled(error)
        return None


def _say_not_compiled(error: RuntimeError) -> None:
    _logger.warning("torch.compile failed, training goes on without it: %s", str(error).split("\n")[0])


def _save_tensors(path: Path, tensors: dict, metadata: dict[str, str] | None = None) -> Path:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return runs.atomic_write(path, lambda file: save_file(tensors, file, metadata=metadata))


def _memory_gb() -> float:
    on_gpu = torch.cuda.is_available()
    return round((torch.cuda.max_memory_allocated() if on_gpu else psutil.Process().memory_info().rss) / 1e9, 3)
