"""Taking a trained network apart: fresh parts in it, one of its predictions alone, parts switched off."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import magnet
from magnet import runs
from magnet.config import Config
from magnet.models.attention import PixelWordAttention


def with_fresh_parts(run: runs.Run, config: Config, fresh: Sequence[str]) -> Path:
    """Weights to start `config` from: the run's, but random ones in parts whose names begin with one of `fresh`.

    For `magnet.fit(config, init=...)`, or `load_weights`. The file lies in `starts/` beside the runs, as the run's own
    folder may be the package's; the random weights are those of config.seed. Raises ValueError naming what neither is
    fresh nor fits the run's weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        tensors = magnet.build_model(config.model).state_dict()
    trained = runs.read_tensors(run.weights)
    kept = [name for name in tensors if not name.startswith(tuple(fresh))]
    wrong = [name for name in kept if name not in trained or trained[name].shape != tensors[name].shape]
    if wrong:
        raise ValueError(
            f"{run.name} has no {', '.join(wrong[:3])} of this configuration's shape; name their parts in fresh="
        )
    tensors |= {name: trained[name] for name in kept}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    key = json.dumps([run.name, runs.config_to_dict(config.model), config.seed, list(fresh)])
    path = runs.ROOT / "starts" / f"{hashlib.sha256(key.encode()).hexdigest()[:10]}.safetensors"
    return runs.atomic_write(path, lambda file: save_file(tensors, file))  # the same bytes again for the same weights


def load_weights(path: Path, config: Config) -> nn.Module:
    """The network of `config` with the weights of a file, in evaluation mode."""
    model = magnet.build_model(config.model)
    runs.load_weights(model, path)
    return model.eval()


class OnePrediction(nn.Module):
    """A network that answers with its prediction `index`: 0 is the query decoder's before its first layer."""

    def __init__(self, model: nn.Module, index: int):
        super().__init__()
        self.model, self.index = model, index

    def forward(self, images: Tensor, token_ids: Tensor, token_mask: Tensor) -> dict:
        outputs = self.model(images, token_ids, token_mask)
        return {**outputs, "mask_logits": [*outputs["aux_mask_logits"], outputs["mask_logits"]][self.index]}


def score_predictions(model: nn.Module, config: Config, num_expressions: int | None = None) -> list[pd.DataFrame]:
    """One results table for every prediction of MagNet's query decoder, in order, on the validation split."""
    options = {"config": config, "num_expressions": num_expressions, "progress": False}
    predictions = (OnePrediction(model, index) for index in range(len(model.query_decoder.layers) + 1))
    return [magnet.evaluate(one, split=config.data.val_split, **options) for one in predictions]


@contextmanager
def switched_off(model: nn.Module, pattern: str) -> Iterator[None]:
    """For a while, what parts whose whole name matches add is nothing: attention reads zeros, gates stay closed.

    `pattern`, a regular expression, must name pixel-word attentions, gates or text sides of MagNet, at least one.
    """
    parts = [part for name, part in model.named_modules() if re.fullmatch(pattern, name)]
    if not parts:
        raise ValueError(f"no part of {type(model).__name__} is called {pattern!r}")
    hooks = [part.register_forward_hook(_nothing_added) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _nothing_added(part: nn.Module, given: tuple, output: Tensor) -> Tensor:
    """Gates and text sides add to their first argument; an attention's output is what is read itself."""
    return torch.zeros_like(output) if isinstance(part, PixelWordAttention) else given[0]
