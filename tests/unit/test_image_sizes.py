"""Pictures of any size: that no stride, patch or window divides, and smaller than the last stage's stride."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_config, tiny_magnet
from test_coupalign import tiny_coupalign

from magnet import losses
from magnet.config import VisionConfig
from magnet.objective import Objective
from magnet.workbench.benchmark import random_batch

SIZES = {"layers": (1, 1, 1, 1), "channels": (8, 16, 16, 16)}
BACKBONES = {
    "swin": tiny_config().model.vision,
    "resnet": VisionConfig(name="resnet10t", options={**SIZES, "out_indices": (1, 2, 3, 4)}, drop_path=0.0),
    "as shipped": VisionConfig(
        name="resnet10t", options={**SIZES, "out_indices": (2, 3, 4), "output_stride": 16}, drop_path=0.0
    ),
}
METHODS = {"lavt": tiny_config(), "magnet": tiny_magnet(), "coupalign": tiny_coupalign()}
METHODS["magnet with detail"] = replace(tiny_magnet(), model=replace(tiny_magnet().model, mask_detail=8))


@pytest.mark.parametrize("size", [250, 97, 9])
@pytest.mark.parametrize("vision", BACKBONES.values(), ids=BACKBONES.keys())
@pytest.mark.parametrize("config", METHODS.values(), ids=METHODS.keys())
def test_a_step_and_an_answer(config, vision, size):
    config = replace(config, model=replace(config.model, vision=vision), data=replace(config.data, image_size=size))
    torch.manual_seed(0)
    objective, batch = Objective(config).train(), random_batch(config, 2)
    terms, _ = objective(batch)
    losses.weighted_sum(objective.weights, terms).backward()
    gradients = [p.grad for p in objective.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients) and any(g.any() for g in gradients)
    with torch.no_grad():
        answer = objective.model.eval()(*(batch[name] for name in ("images", "token_ids", "token_mask")))
    height, width = answer["mask_logits"].shape[1:]
    assert height == width and size / 8 <= height <= size + 7 and answer["mask_logits"].isfinite().all()
