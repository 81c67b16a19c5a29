"""What a training step holds for its backward pass, what gradient checkpointing leaves of it, and freed memory."""

import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import tiny_magnet

from magnet import losses
from magnet.config import GroundingConfig
from magnet.losses import TERMS
from magnet.objective import Objective
from magnet.workbench.benchmark import random_batch


class Held(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that are kept for the backward pass, each memory once and no parameter's."""

    def __init__(self, parameters=()):
        self.kept = {p.untyped_storage().data_ptr(): 0 for p in parameters}
        self.storages = []  # alive, so that no address comes twice
        super().__init__(self.pack, lambda tensor: tensor)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.kept:
            self.kept[storage.data_ptr()] = storage.nbytes()
            self.storages.append(storage)
        return tensor

    def __enter__(self) -> "Held":
        super().__enter__()
        return self

    @property
    def bytes(self) -> int:
        return sum(self.kept.values())


def step(config, checkpointing: bool) -> tuple[list[torch.Tensor], int]:
    """Gradients and bytes held of a step with dropout and stochastic depth."""
    model = replace(config.model, gradient_checkpointing=checkpointing)
    model = replace(model, vision=replace(model.vision, drop_path=0.3))
    config = replace(config, model=model)
    torch.manual_seed(0)
    objective, batch = Objective(config).train(), random_batch(config, 2)
    with Held(objective.parameters()) as held:
        terms, _ = objective(batch)
    losses.weighted_sum(objective.weights, terms).backward()
    return [p.grad for p in objective.parameters()], held.bytes


@pytest.mark.parametrize("passes", [1, 2])
def test_checkpointing_holds_little_and_changes_no_gradient(passes):
    """Stages of both passes of Mask Grounding, and the layers of the pixel decoder, which hold as much as they."""
    config = replace(tiny_magnet(), grounding=GroundingConfig(passes=passes, ratio=0.5))
    config = replace(config, model=replace(config.model, decoder_layers=1, pixel_decoder_layers=3))
    (plain, whole), (recomputed, rest) = (step(config, checkpointing) for checkpointing in (False, True))
    torch.testing.assert_close(plain, recomputed)
    assert rest < 0.25 * whole


def test_losses_of_masks_hold_two_numbers_a_pixel():
    """One for each of the terms that share a prediction, as large as the masks; no copy of the truth."""
    logits, masks = [torch.randn(2, 16, 16, requires_grad=True) for _ in range(3)], torch.ones(2, 64, 64)
    outputs = {"mask_logits": logits[0], "aux_mask_logits": logits[1:]}
    with Held([masks]) as held:
        value = TERMS["mask_bce"](outputs, {"masks": masks}) + TERMS["mask_dice"](outputs, {"masks": masks})
    value.backward()
    assert held.bytes < 1.05 * 2 * 3 * masks.numel() * masks.element_size()


GIVEN_BACK = """
import psutil, torch
from magnet import memory
memory.keep_freed()
rows = [torch.ones(2**20) for _ in range(100)]  # 4 MB each
last = torch.ones(2**20)  # above them: what is free below it is not at the end of the heap
del rows
kept = psutil.Process().memory_info().rss
memory.give_back()
print(kept - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere nothing is given back")
def test_a_process_that_waits_gives_back_what_it_kept():
    out = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True).stdout
    assert int(out) > 0.9 * 400e6


FAULTS = """
import resource, sys, torch
from magnet import memory
for keep in (False, True):
    memory.keep_freed(keep)
    for _ in range(20):  # 64 MB: kept, or given back; until there are as many pieces as serve one another
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere nothing is set")
def test_what_is_freed_serves_again_without_asking_the_system_for_pages():
    """64 MB are 16,384 pages of 4 KB; each is asked for once where the block was given back."""
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, out.split())
    assert given_back > 100_000 and kept < 2_000
