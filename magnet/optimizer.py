"""What is optimised, at which rates, and in which precision: AdamW in groups, its schedule, what stays fixed."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable

import torch

from magnet.config import OptimConfig


def learning_rate(optim: OptimConfig, step: int, num_steps: int) -> float:
    """Rate at `step` (from 0): linear warm-up, then polynomial decay of power 0.9 (LAVT) or half a cosine, to 0."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, num_steps - optim.warmup_steps)
    if optim.schedule == "cosine":
        return optim.lr * 0.5 * (1 + math.cos(math.pi * done))
    return optim.lr * (1 - done) ** 0.9


def build_optimizer(objective: torch.nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW, without decay for norms, biases and position tables; parameters matching `optim.frozen` stay fixed.

    A group's "share" of the learning rate is that of the longest pattern of `optim.rates` that matches, or 1. Patterns
    name the network's parameters as the network does, those of training-only parts with the part first.
    """
    named = {name.removeprefix("model."): parameter for name, parameter in objective.named_parameters()}
    _check_patterns("frozen", optim.frozen, named)
    _check_patterns("rates", optim.rates, named)
    if low := [pattern for pattern, share in optim.rates.items() if not share >= 0]:
        raise ValueError(
            f"optim.rates: {low[0]!r} is no share of 0 or more; to hold parameters name them in optim.frozen"
        )
    groups = defaultdict(list)  # (decay, share of the rate) -> parameters
    for name, parameter in named.items():
        if any(re.search(pattern, name) for pattern in optim.frozen):
            parameter.requires_grad_(False)
        elif parameter.requires_grad:
            decay = 0.0 if parameter.ndim <= 1 or "position" in name else optim.weight_decay
            matching = [pattern for pattern in optim.rates if re.search(pattern, name)]
            share = optim.rates[max(matching, key=lambda pattern: (len(pattern), pattern))] if matching else 1.0
            groups[decay, share].append(parameter)
    if not groups:
        raise ValueError(f"optim.frozen={optim.frozen} leaves no parameter to train")
    settings = [{"params": group, "weight_decay": decay, "share": share} for (decay, share), group in groups.items()]
    return torch.optim.AdamW(settings, lr=optim.lr, betas=optim.betas, fused=True)


def fix_frozen(objective: torch.nn.Module) -> None:
    """What holds no parameter to train has nothing to learn from a batch: its norms keep the averages they have."""
    for module in objective.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def _check_patterns(field: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    """A pattern that matches no parameter would do nothing, in silence."""
    for pattern in patterns:
        try:
            matches = any(re.search(pattern, name) for name in names)
        except re.error as error:
            raise ValueError(f"optim.{field}={pattern!r} is no regular expression: {error}") from error
        if not matches:
            first = ", ".join(list(names)[:3])
            raise ValueError(f"optim.{field}={pattern!r} matches no parameter; the first are {first}")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies it natively; elsewhere it is slower than any use of it could be."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def choose_precision(optim: OptimConfig, device: torch.device) -> str:
    """`optim.precision`, with "auto" resolved: bfloat16 where the hardware multiplies it natively.

    Raises ValueError for bfloat16 on a device without it.
    """
    native = has_bfloat16(device)
    if optim.precision == "auto":
        return "bfloat16" if native else "float32"
    if optim.precision == "bfloat16" and not native:
        raise ValueError(f"this {device.type} has no bfloat16 arithmetic; choose --optim.precision float32 (or auto)")
    return optim.precision
