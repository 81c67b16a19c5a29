"""What each variant of MagNet costs: parameters, arithmetic and time, all parts alike but those that vary.

magnet benchmark variants                                   # of magnet_tiny, a minute or two
magnet benchmark variants --recipe magnet_base --steps 0    # parameters and GFLOP only, a few minutes
"""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from magnet import losses, runs
from magnet.config import AlignmentConfig, Config, GroundingConfig, ModelConfig
from magnet.data import load_tokenizer
from magnet.objective import Objective
from magnet.optimizer import build_optimizer, choose_precision, fix_frozen
from magnet.workbench import machine


def variants(config: Config) -> dict[str, Config]:
    """The recipe with every fusion and without training-only parts, then with `cam` and every part, alone and together.

    Parts have the recipe's settings, where it has them. Nothing else changes.
    """
    grounding, alignment = config.grounding or GroundingConfig(), config.alignment or AlignmentConfig()
    plain = replace(config, grounding=None, alignment=None)
    models = {
        "pwam": {"fusion": "pwam"},
        "pwam_matched": {"fusion": "pwam_matched"},
        "cam": {"fusion": "cam"},
        "cam, text side as released": {"fusion": "cam", "text_side": "released"},
    }
    parts = {
        "grounding, two passes": {"grounding": replace(grounding, passes=2)},
        "grounding, one pass": {"grounding": replace(grounding, passes=1)},
        "alignment, pixel_pixel": {"alignment": replace(alignment, pixel_text=0.0)},
        "alignment, pixel_text": {"alignment": replace(alignment, pixel_pixel=0.0)},
        "alignment, both": {"alignment": alignment},
        "grounding, two passes + alignment, both": {
            "grounding": replace(grounding, passes=2),
            "alignment": alignment,
        },
    }
    made = {name: replace(plain, model=replace(config.model, **fields)) for name, fields in models.items()}
    return made | {f"cam + {name}": replace(made["cam"], **fields) for name, fields in parts.items()}


def measure_variants(config: Config, steps: int = 5, batch_size: int | None = None) -> pd.DataFrame:
    """One row a variant of `config`, on random images and words; backbones have random weights: that costs the same.

    parameters: of the network; training_parameters: of the training-only parts.
    forward_gflop: one image's way through the network (matrix products, convolutions, attention);
    training_gflop: the same of what a training step computes before its backward pass.
    seconds_per_step: median over `steps` rounds of a training step of `batch_size` images (None: the recipe's).
    ratio: its seconds to those of the same network without training-only parts; the median of the rounds' ratios.
    Variants take turns in a round, so that a machine that slows down slows all of them. Without `steps` one network at
    a time is in memory, with them all are.
    """
    configs, rows, steppers = variants(config), [], {}
    for name, variant in configs.items():
        stepper = Stepper(variant, batch_size or config.optim.batch_size)
        rows.append({"variant": name, **stepper.cost()})
        if steps:
            steppers[name] = stepper
    table = pd.DataFrame(rows)
    rounds = pd.DataFrame(
        [{name: stepper.seconds(turn) for name, stepper in steppers.items()} for turn in range(steps + 1)][1:]
    )  # the first round is not counted
    return _with_times(table, rounds, configs) if steps else table


def _with_times(table: pd.DataFrame, rounds: pd.DataFrame, configs: dict[str, Config]) -> pd.DataFrame:
    """`rounds`: seconds, a row a round, a column a variant."""
    plain = {repr(c.model): name for name, c in configs.items() if not (c.grounding or c.alignment)}
    ratios = rounds / rounds[[plain[repr(configs[name].model)] for name in rounds]].to_numpy()
    return table.assign(
        seconds_per_step=table["variant"].map(rounds.median()), ratio=table["variant"].map(ratios.median())
    )


class Stepper:
    """What training makes of a configuration, with random weights, and a random batch to train it on."""

    def __init__(self, config: Config, batch_size: int):
        torch.manual_seed(0)
        self.config = replace(config, model=offline(config.model))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.objective = Objective(self.config).to(self.device).train()
        self.optimizer = build_optimizer(self.objective, config.optim)
        fix_frozen(self.objective)
        self.precision = choose_precision(config.optim, self.device)
        batch = random_batch(config, batch_size)
        self.batch = {name: values.to(self.device) for name, values in batch.items()}

    def seconds(self, seed: int) -> float:
        """Of one step: forward, backward, update. `seed` decides which words are hidden."""
        torch.manual_seed(seed)
        began = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            terms, _ = self.objective(self.batch)
        losses.weighted_sum(self.objective.weights, terms).backward()
        if self.config.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        machine.wait(self.device)
        return time.perf_counter() - began

    def step_gflop(self) -> float:
        """Of one step, backward pass included and what checkpointing computes again left out."""
        model = self.objective.model
        kept, model.config = model.config, replace(model.config, gradient_checkpointing=False)
        with FlopCounterMode(display=False) as counter:
            self.seconds(0)
        model.config = kept
        return counter.get_total_flops() / 1e9

    def cost(self) -> dict[str, float]:
        """Parameters and GFLOP, as `measure_variants` names them."""
        network = sum(p.numel() for p in self.objective.model.parameters())
        forward, training = count_gflop(self.objective, {name: values[:1] for name, values in self.batch.items()})
        return {
            "parameters": network,
            "training_parameters": sum(p.numel() for p in self.objective.parameters()) - network,
            "forward_gflop": forward,
            "training_gflop": training,
        }


def dry_run(config: Config, steps: int = 2, batch_size: int | None = None) -> dict[str, float]:
    """What a training of `config` would be made of, on random weights, pictures and words; nothing is fetched or kept.

    batch_size: pictures a step; None: those of a forward pass (optim.micro_batch, or optim.batch_size), on a CPU one.
    Gives parameters, training_parameters and both GFLOP as `measure_variants` names them, batch_size,
    seconds_per_step (the last step's), memory_gb (the most that was in use: of the GPU, or of this process).
    """
    whole = config.optim.micro_batch or config.optim.batch_size
    batch_size = batch_size or (whole if torch.cuda.is_available() else 1)
    stepper = Stepper(config, batch_size)
    cost = stepper.cost()
    seconds = [stepper.seconds(step) for step in range(steps)]
    memory = machine.peak_memory_gb()
    return {**cost, "batch_size": batch_size, "seconds_per_step": seconds[-1], "memory_gb": memory}


def count_gflop(objective: torch.nn.Module, batch: dict) -> tuple[float, float]:
    """Of `objective.model`'s forward pass alone, and of all that `objective(batch)` computes."""
    torch.manual_seed(0)  # the same words are hidden from every variant
    with FlopCounterMode(display=False) as counter:
        objective(batch)
    model = counter.get_flop_counts()[f"{type(objective).__name__}.model"]
    return sum(model.values()) / 1e9, counter.get_total_flops() / 1e9


def inference_gflop(model: torch.nn.Module, work: Callable) -> float:
    """Of all that `work` computes without gradients. The library's counter wants a gradient's way back from whatever
    has one, so for a while no parameter has."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    try:
        with FlopCounterMode(display=False) as counter:
            work()
    finally:
        for parameter in learnt:
            parameter.requires_grad_(True)
    return counter.get_total_flops() / 1e9


def offline(model: ModelConfig) -> ModelConfig:
    """The same sizes without a file: random weights, the shipped words among as many as the model's own are."""
    language, vision = model.language, replace(model.vision, pretrained=None)
    if language.vocabulary != "refshapes":
        own = {"vocab_size": AutoConfig.for_model(language.name).vocab_size}
        language = replace(language, pretrained=None, vocabulary="refshapes", options={**own, **language.options})
    return replace(model, vision=vision, language=language)


def random_batch(config: Config, batch_size: int) -> dict[str, torch.Tensor]:
    """Noise with masks that cover a fifth of it, and sentences as long as can be: [CLS], shipped words, [SEP].

    batch_size: pictures; there are data.sentences_per_image sentences for each.
    """
    size, tokenizer = config.data.image_size, load_tokenizer("refshapes")
    shape = (batch_size * config.data.sentences_per_image, config.data.num_tokens)
    words = torch.tensor(sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids)))
    token_ids = words[torch.randint(len(words), shape)]
    token_ids[:, 0], token_ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    return {
        "images": torch.randn(batch_size, 3, size, size),
        "masks": (torch.rand(shape[0], size, size) > 0.8).float(),
        "token_ids": token_ids,
        "token_mask": torch.ones(shape, dtype=torch.long),
    }


def write_table(table: pd.DataFrame, path: Path, command: str) -> Path:
    """A CSV that also says how, when, where and from which commit it was made."""
    about = runs.environment()
    made = {"command": command, "date": date.today(), "hardware": ", ".join([about["processor"], *about["gpus"]])}
    made |= {"torch": about["packages"]["torch"], "commit": about["commit"]}
    return runs.atomic_write(path, lambda file: table.assign(**made).to_csv(file, index=False, float_format="%.5g"))
