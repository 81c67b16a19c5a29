"""Fine features for sharper masks: what the picture shows at half its size, and what the mask features know of it.

Not in the paper, whose masks are a quarter of 480 px: on small pictures a quarter is too coarse for an outline.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magnet.models.decoders import resize


class MaskDetail(nn.Module):
    """`channels` features for every second row and column of a picture, from mask features of that `stride`."""

    def __init__(self, width: int, channels: int, stride: int):
        super().__init__()
        self.scale = max(1, stride // 2)
        layers = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, channels, 3, padding=1)
        self.image = nn.Sequential(*layers)
        self.context = nn.Conv2d(width, channels * self.scale**2, kernel_size=1)

    def forward(self, image: Tensor, mask_features: Tensor) -> Tensor:
        """What `self.image` made of S pictures, (S,channels,H/2,W/2), and mask features (B,width,h,w), B = k·S, as in
        `ReferringNetwork` -> (B,channels,h·scale,w·scale)."""
        context = F.pixel_shuffle(self.context(mask_features), self.scale)
        if image.shape[-2:] != context.shape[-2:]:
            image = resize(image, context.shape[-2:])
        return F.relu(context.unflatten(0, (-1, len(image))) + image).flatten(0, 1)


def add_detail(mask_logits: Tensor, embedding: Tensor, detail: Tensor) -> Tensor:
    """Mask logits (B,h,w), made finer, plus the dot product of an embedding (B,1,c) with the detail (B,c,H,W)."""
    finer = resize(mask_logits[:, None], detail.shape[-2:])[:, 0]
    return finer + torch.einsum("bqc,bchw->bhw", embedding, detail)
