"""What stands in the alignment module's place to measure it: LAVT's fusion, as it is or with as many parameters."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magnet.models.attention import PixelWordAttention, to_map, to_tokens
from magnet.models.cam import CAMImageSide, CAMTextSide


class PWAMImageSide(nn.Module):
    """LAVT's pixel-word attention, and for the decoder its LayerNorm; maps (B,C,H,W) as in `CAMImageSide`.

    `num_extra` parameters go into an MLP on the decoder's features, which reads no words.
    """

    def __init__(self, channels: int, word_width: int, num_extra: int = 0):
        super().__init__()
        self.full = PixelWordAttention(channels, word_width)
        self.norm = nn.LayerNorm(channels)
        self.mlp = ResidualMLP(channels, num_extra) if num_extra else nn.Identity()

    def forward(self, pixels: Tensor, words: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        fused = self.full(pixels, words, token_mask)
        return fused, to_map(self.mlp(self.norm(to_tokens(fused))), pixels.shape[-2:])


class BlindTextSide(nn.Module):
    """An MLP of `num_parameters` on the words (B,T,D), where `CAMTextSide` would read pixels."""

    def __init__(self, word_width: int, num_parameters: int):
        super().__init__()
        self.mlp = ResidualMLP(word_width, num_parameters)

    def forward(self, words: Tensor, pixels: Tensor, token_mask: Tensor) -> Tensor:
        return self.mlp(words)


class ResidualMLP(nn.Module):
    """x + W2·GELU(W1·x) on (B,N,C), as wide as `num_parameters` allow; it starts as the identity."""

    def __init__(self, channels: int, num_parameters: int):
        super().__init__()
        hidden = max(1, round((num_parameters - channels) / (2 * channels + 1)))
        self.inner = nn.Linear(channels, hidden)
        self.outer = nn.Linear(hidden, channels)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(F.gelu(self.inner(x)))


def matched_image_side(channels: int, word_width: int, pyramid: tuple[int, ...]) -> PWAMImageSide:
    """With as many parameters as `CAMImageSide` has at this size, to a row of the MLP."""
    with torch.device("meta"):
        target, plain = CAMImageSide(channels, word_width, pyramid), PWAMImageSide(channels, word_width)
    return PWAMImageSide(channels, word_width, num_parameters(target) - num_parameters(plain))


def matched_text_side(channels: int, word_width: int) -> BlindTextSide:
    """With as many parameters as `CAMTextSide` has at this size, to a row of the MLP."""
    with torch.device("meta"):
        target = num_parameters(CAMTextSide(channels, word_width))
    return BlindTextSide(word_width, target)


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
