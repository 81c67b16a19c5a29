"""What a full-size network holds for its backward pass on a GPU, for an image of 480 px in bfloat16, and what is left
of it with gradient checkpointing: counted on tensors that have sizes but no numbers, so without a GPU.

python benchmarks/held.py --output results/tables/held.csv        (four minutes)

Weights, gradients and the optimiser's state are not in it, nor what a part needs while it is computed. Two-pass Mask
Grounding holds stages and exchange twice, but for the first stage.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import torch
from measured import parser, report
from torch._subclasses.fake_tensor import FakeTensorMode

import magnet
from magnet.config import Config
from magnet.losses import compute
from magnet.models import build_model
from magnet.models.base import ReferringNetwork
from magnet.workbench.benchmark import offline, random_batch

RECIPES = ("magnet_base", "lavt_base", "coupalign_base")


class Held(torch.autograd.graph.saved_tensors_hooks):
    """Bytes kept for the backward pass, each memory once and none of the weights', by the part that is computed."""

    def __init__(self, weights: torch.nn.Module):
        self.seen = {tensor.untyped_storage()._cdata: tensor for tensor in weights.state_dict(keep_vars=True).values()}
        self.bytes, self.part = {}, "rest"
        super().__init__(self.pack, lambda tensor: tensor)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen[storage._cdata] = storage  # alive, so that no address comes twice
            self.bytes[self.part] = self.bytes.get(self.part, 0) + storage.nbytes()
        return tensor

    def name(self, module: torch.nn.Module, part: str) -> None:
        module.register_forward_pre_hook(lambda *_: setattr(self, "part", part))
        module.register_forward_hook(lambda *_: setattr(self, "part", "rest"))


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Autocast as it is there, on a machine that has none."""
    there = mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    native = mock.patch.object(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    with there, native, FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cuda", torch.bfloat16):
        yield


def held(config: Config, checkpointing: bool, num_images: int) -> dict[str, int]:
    """Bytes by part: pixel decoder's layers, rest."""
    with torch.device("meta"):
        model: ReferringNetwork = build_model(replace(offline(config.model), gradient_checkpointing=checkpointing))
    batch = random_batch(config, num_images)
    with as_on_a_gpu():
        model.to_empty(device="cuda").train()
        batch = {name: torch.empty(x.shape, dtype=x.dtype, device="cuda") for name, x in batch.items()}
        kept = Held(model)
        for layer in model.pixel_decoder.layers if config.model.method == "magnet" else ():
            kept.name(layer, "pixel decoder's layers")
        with kept:
            outputs = model(batch["images"], batch["token_ids"], batch["token_mask"])
            compute(config.losses, outputs, batch)
    return kept.bytes


def main() -> None:
    options, rows = parser(__doc__).parse_args(), []
    for recipe in RECIPES:
        for checkpointing in (False, True):
            one, two = (held(magnet.recipe(recipe), checkpointing, num) for num in (1, 2))
            found = {part: two[part] - size for part, size in one.items()}  # weights in bfloat16 are held once
            what = f"{recipe}: held for the backward pass{', checkpointing' if checkpointing else ''}"
            rows.append((what, sum(found.values()) / 1e9, "GB"))
            rows += [(f"{what}: {part}", size / 1e9, "GB") for part, size in found.items() if part != "rest"]
    report(rows, options.output)


if __name__ == "__main__":
    main()
