"""What each variant of a method costs: parameters, arithmetic and time, all parts alike but the one that varies.

magnet benchmark variants                               # of magnet_tiny, about a minute
magnet benchmark variants --recipe magnet_base --steps 0    # parameters and GFLOP only
"""

import dataclasses
import statistics
import time

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

import magnet
from magnet import losses
from magnet.config import Config, ModelConfig
from magnet.models import build_model
from magnet.train import build_optimizer, choose_precision


def variants(config: Config) -> dict[str, Config]:
    """The recipe with every fusion; nothing else changes."""
    choices = {
        "pwam": {"fusion": "pwam"},
        "pwam_matched": {"fusion": "pwam_matched"},
        "cam": {"fusion": "cam"},
        "cam, text side as released": {"fusion": "cam", "text_side": "released"},
    }
    return {
        name: dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))
        for name, fields in choices.items()
    }


def measure_variants(recipe: str = "magnet_tiny", steps: int = 5, batch_size: int | None = None) -> pd.DataFrame:
    """One row a variant: parameters, GFLOP of one image's forward pass (matrix products, convolutions, attention),
    median seconds of a training step of `batch_size` random images. Variants take turns, so that a machine that slows
    down slows all of them. Backbones have random weights: that costs the same.
    """
    configs = variants(magnet.recipe(recipe))
    steppers = {name: Stepper(config, batch_size or config.optim.batch_size) for name, config in configs.items()}
    seconds = {name: [] for name in steppers}
    for _ in range(steps + 1 if steps else 0):  # the first turn is not counted
        for name, stepper in steppers.items():
            seconds[name].append(stepper.seconds())
    rows = [
        {
            "variant": name,
            "parameters": sum(p.numel() for p in stepper.model.parameters()),
            "gflop_per_image": stepper.gflop_per_image(),
            "seconds_per_step": statistics.median(seconds[name][1:]) if steps else None,
        }
        for name, stepper in steppers.items()
    ]
    return pd.DataFrame(rows)


class Stepper:
    """A network of the configuration's sizes, with random weights, and a random batch to train it on."""

    def __init__(self, config: Config, batch_size: int):
        torch.manual_seed(0)
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = build_model(without_pretrained(config.model), vocab_size(config)).to(self.device).train()
        self.optimizer = build_optimizer(self.model, config.optim)
        self.precision = choose_precision(config.optim, self.device)
        self.batch = {k: v.to(self.device) for k, v in random_batch(config, batch_size).items()}

    def seconds(self) -> float:
        """Of one step: forward, backward, update."""
        began = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            terms = losses.compute(self.config.losses, self.model(*self._inputs()), self.batch)
        losses.weighted_sum(self.config.losses, terms).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def gflop_per_image(self) -> float:
        with FlopCounterMode(display=False) as counter:
            self.model.eval()(*(x[:1] for x in self._inputs()))
        return counter.get_total_flops() / 1e9

    def _inputs(self) -> list[torch.Tensor]:
        return [self.batch[name] for name in ("images", "token_ids", "token_mask")]


def without_pretrained(model: ModelConfig) -> ModelConfig:
    parts = {name: dataclasses.replace(getattr(model, name), pretrained=None) for name in ("vision", "language")}
    return dataclasses.replace(model, **parts)


def vocab_size(config: Config) -> int | None:
    """None: as many words as the shipped vocabulary has. Any other is counted as its model type's own is."""
    language = config.model.language
    return None if language.vocabulary == "refshapes" else AutoConfig.for_model(language.name).vocab_size


def random_batch(config: Config, batch_size: int) -> dict[str, torch.Tensor]:
    size, num_tokens = config.data.image_size, config.data.num_tokens
    return {
        "images": torch.randn(batch_size, 3, size, size),
        "masks": (torch.rand(batch_size, size, size) > 0.8).float(),
        "token_ids": torch.randint(1, 50, (batch_size, num_tokens)),
        "token_mask": torch.ones(batch_size, num_tokens, dtype=torch.long),
    }
