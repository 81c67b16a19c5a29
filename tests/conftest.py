"""What the tests share: a network small enough to train in seconds, the shipped RefShapes, and a browser."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import magnet
from magnet import runs
from magnet.config import AlignmentConfig, Config, GroundingConfig, VisionConfig

ASSETS = Path(magnet.__file__).parent / "assets"  # a data root: it holds the mini RefShapes
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOW = "these tests need a browser: apt-get install chromium (or have one as chromium or google-chrome on the PATH), "
HOW += "and pip install -e .[dev] for playwright"
PARTS = {"grounding": GroundingConfig(ratio=0.5), "alignment": AlignmentConfig()}  # of training alone


def tiny_config(**optim) -> Config:
    """LAVT of a few thousand weights on 32 px scenes, in float32, without dropout and BatchNorm."""
    config = magnet.recipe("lavt_tiny")
    swin = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2), "window_size": 4}
    vision = VisionConfig(name="swin_tiny_patch4_window7_224", options=swin, drop_path=0.0)
    words = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = dataclasses.replace(
        config.model, decoder_norm="group", vision=vision,
        language=dataclasses.replace(config.model.language, options=config.model.language.options | words),
    )  # fmt: skip
    steps = {"num_steps": 12, "batch_size": 8, "val_every": 6, "val_expressions": 8, "warmup_steps": 2}
    optim = dataclasses.replace(config.optim, **({"precision": "float32"} | steps | optim))
    data = dataclasses.replace(config.data, image_size=32, root=str(ASSETS), num_workers=0)
    return dataclasses.replace(config, model=model, optim=optim, data=data, checkpoint_every=4, log_every=1)


def tiny_magnet(**optim) -> Config:
    """MagNet with the backbones of `tiny_config` and narrow decoders.

    On 64 px scenes, so that the last stage has more than a single pixel.
    """
    config, recipe = tiny_config(**optim), magnet.recipe("magnet_tiny")
    model = dataclasses.replace(
        recipe.model, vision=config.model.vision, language=config.model.language, decoder_width=16, num_heads=2,
        pixel_decoder_feedforward=16, decoder_feedforward=16, mask_detail=0,
    )  # fmt: skip
    data = dataclasses.replace(config.data, image_size=64)
    return dataclasses.replace(config, recipe="magnet_tiny", model=model, data=data, losses=recipe.losses)


def same_weights(a: Path, b: Path) -> bool:
    """Best weights, last weights and the optimiser's state, bit for bit."""
    for name in ("model.safetensors", "checkpoint/last.safetensors"):
        ours, theirs = load_file(a / name), load_file(b / name)
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
            return False
    return True


@pytest.fixture
def run_root(tmp_path, monkeypatch) -> Path:
    """An empty folder for runs."""
    monkeypatch.setattr(runs, "ROOT", tmp_path / "runs")
    return runs.ROOT


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Playwright's Browser. Without one: skipped, but a failure where MAGNET_BROWSER=1 says that there must be one."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program or not find_spec("playwright"):
        (pytest.fail if os.environ.get("MAGNET_BROWSER") == "1" else pytest.skip)(HOW)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root chromium refuses to start with it
        opened = playwright.chromium.launch(executable_path=program, args=arguments)
        yield opened
        opened.close()
