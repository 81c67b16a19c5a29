"""Decoders: from the fused features of all stages to one mask."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LAVTDecoder(nn.Module):
    """LAVT's decoder: from the coarsest map up, upsample, join the next finer map, two 3×3 convolutions.

    `norm` "batch" is LAVT's; "group" (8 groups, our choice) does not depend on the other images of a batch.
    `width` None is LAVT's, half the last stage's channels.
    """

    def __init__(self, channels: list[int], norm: str = "batch", width: int | None = None):
        super().__init__()
        self.width = width or channels[-1] // 2
        inputs = [channels[-1]] + [self.width] * (len(channels) - 2)  # what arrives from below
        self.fuse = nn.ModuleList(
            _two_convolutions(below + finer, self.width, norm) for below, finer in zip(inputs, channels[-2::-1])
        )
        self.classifier = nn.Conv2d(self.width, 2, kernel_size=1)

    def features(self, maps: list[Tensor]) -> Tensor:
        """Maps (B,C_i,H_i,W_i), finest first -> (B,width,H_1,W_1)."""
        y = maps[-1]
        for fuse, finer in zip(self.fuse, maps[-2::-1]):
            y = fuse(torch.cat([resize(y, finer.shape[-2:]), finer], dim=1))
        return y

    def forward(self, maps: list[Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Maps, finest first -> class logits (B,2,*image_size), 1 is foreground; features (B,width,H_1,W_1)."""
        features = self.features(maps)
        return resize(self.classifier(features), image_size), features


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B,C,H,W) -> (B,C,*size), bilinear with aligned corners."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def _two_convolutions(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    layers = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), _norm(norm, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(math.gcd(8, channels), channels)
