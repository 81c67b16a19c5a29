"""A vision backbone that can name RefShapes' objects before it meets a sentence: what ImageNet is to the papers' Swin.

    VisionConfig(..., pretrained="refshapes")       # `fit` lets the backbone learn names first, once, and keeps it

At every pixel of an object, a small head on all stages names the object's shape, colour, texture and size. Sentences
say which object is meant, one per picture; names say what all of them are, so shapes are learnt many times as fast.
Our choice throughout.
"""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from magnet import runs
from magnet.config import VisionConfig
from magnet.data.dataset import normalize
from magnet.evaluate import progress_bar
from magnet.models.vision import VisionBackbone
from magnet.refshapes.draw import render
from magnet.refshapes.scene import COLOURS, SHAPES, SIZES, TEXTURES, VERSION, draw_scene

ASKED = {"shape": SHAPES, "colour": tuple(COLOURS), "texture": TEXTURES, "size": tuple(SIZES)}
_NOTHING = -100  # the label of background, which cross_entropy leaves out
_BATCH_SIZE, _IMAGE_SIZE, _RATE = 32, 96, 5e-3  # the rate: results/tables/vision_trials.csv


def kept_at(config: VisionConfig, precision: str = "float32", pad_then_roll: bool = True) -> Path:
    """Where the weights lie, beside the runs in `pretrained/`, once the backbone of that configuration has learnt."""
    known = {**asdict(all_stages(config)), "scenes": VERSION, "precision": precision}
    known |= {"rate": _RATE, "batch_size": _BATCH_SIZE}
    known |= {} if pad_then_roll else {"pad_then_roll": False}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:10]
    return runs.ROOT.parent / "pretrained" / f"{config.name}-{digest}.safetensors"


def pretrained_file(
    config: VisionConfig, precision: str = "float32", progress: bool = True, pad_then_roll: bool = True
) -> Path:
    """The file with the weights of `config.pretraining_steps` steps, learnt now if it is not there.

    All seeds share it. It leaves the global random state as it was. Stopped on its way, it begins again.
    """
    path = kept_at(config, precision, pad_then_roll)
    if not path.is_file():
        try:
            with torch.random.fork_rng():
                backbone = pretrain(config, precision, progress, pad_then_roll=pad_then_roll)
        except KeyboardInterrupt:
            again = "the same command begins these steps again"
            raise KeyboardInterrupt(f"stopped while the vision backbone learnt names; {again}") from None
        tensors = {name: tensor.cpu().contiguous() for name, tensor in backbone.body.state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.atomic_write(path, lambda file: save_file(tensors, file))
    return path


def pretrain(
    config: VisionConfig, precision: str = "float32", progress: bool = True, seed: int = 0, pad_then_roll: bool = True
) -> VisionBackbone:
    """A backbone of that configuration, trained from random weights on fresh training scenes of 96 px."""
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = VisionBackbone(replace(all_stages(config), pretrained=None), pad_then_roll=pad_then_roll)
    network = nn.Sequential(backbone, NamingHead(backbone.channels)).to(device, memory_format=torch.channels_last)
    num_steps = config.pretraining_steps
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, betas=(0.9, 0.98), fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=max(2, num_steps), pct_start=0.1, cycle_momentum=False
    )
    with progress_bar(progress, total=num_steps, unit="step", desc="vision backbone learns names") as bar:
        for step in range(num_steps):
            images, labels = (x.to(device) for x in draw_named(step * _BATCH_SIZE, seed))
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                logits = network(images.contiguous(memory_format=torch.channels_last))
            naming_loss(logits, labels).backward()
            optimizer.step(), rate.step(), optimizer.zero_grad()
            bar.update()
    return backbone


def all_stages(config: VisionConfig) -> VisionConfig:
    """As a backbone learns names: with every stage from a quarter of the picture's size on, also those a network skips.

    Without stochastic depth, which the weights do not depend on.
    """
    options = {name: value for name, value in config.options.items() if name != "out_indices"}
    with torch.device("meta"):  # only asked for its strides
        strides = VisionBackbone(replace(config, pretrained=None, options=options)).strides
    kept = tuple(index for index, stride in enumerate(strides) if stride >= 4)
    return replace(config, drop_path=0.0, options=options | {"out_indices": kept})


class NamingHead(nn.Module):
    """Maps (B,C_i,H_i,W_i) of all stages -> logits (B,answers,H_1,W_1) of all answers, one question after the other."""

    def __init__(self, channels: list[int], width: int = 64):
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(c, width, kernel_size=1) for c in channels)
        answers = sum(map(len, ASKED.values()))
        self.answer = nn.Sequential(nn.GroupNorm(8, width), nn.ReLU(), nn.Conv2d(width, answers, kernel_size=1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        reduced = (reduce(x) for reduce, x in zip(self.reduce, maps))
        return self.answer(sum(F.interpolate(x, size=size, mode="bilinear") for x in reduced))


def naming_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the questions of the cross-entropy at objects' pixels; the answers (B,questions,H,W) are made as coarse
    as the logits (B,answers,h,w)."""
    labels = F.interpolate(labels.float(), size=logits.shape[-2:], mode="nearest-exact").long()
    parts = logits.float().split([len(answers) for answers in ASKED.values()], dim=1)
    return sum(F.cross_entropy(part, labels[:, i], ignore_index=_NOTHING) for i, part in enumerate(parts))


def draw_named(first: int, seed: int, num: int = _BATCH_SIZE) -> tuple[Tensor, Tensor]:
    """Images (num,3,96,96), ImageNet-normalised, of scenes from `first` on, and for each pixel the answers
    (num,questions,96,96) about its object; -100 where there is none."""
    images, labels = [], []
    for number in range(first, first + num):
        scene = draw_scene(seed, number)
        image, masks = render(scene, _IMAGE_SIZE)
        answers = np.full((len(ASKED), *masks.shape[1:]), _NOTHING)
        for thing, mask in zip(scene.objects, masks):
            values = [known.index(getattr(thing, question)) for question, known in ASKED.items()]
            answers[:, mask] = np.array(values)[:, None]
        images.append(normalize(image))
        labels.append(torch.from_numpy(answers))
    return torch.stack(images), torch.stack(labels)
