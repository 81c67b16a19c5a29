"""MagNet's Cross-modal Alignment Module: after a stage, pixels read words at several scales, and words read pixels."""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magnet.models.attention import LanguageGate, PixelWordAttention, instance_norm, to_map, to_tokens
from magnet.models.decoders import resize


class CAMImageSide(nn.Module):
    """Pixels (B,C,H,W) read words (B,T,D) at full resolution and pooled to every size of `pyramid` (methods: 1,2,3,6).

    Gives the full-resolution reading, which the gate lets into the backbone, and the decoder's features, which mix all
    scales; both (B,C,H,W). As in the released network. C must be a multiple of 4.
    """

    def __init__(self, channels: int, word_width: int, pyramid: tuple[int, ...]):
        super().__init__()
        narrow = channels // 4
        self.pyramid = pyramid
        self.full = PixelWordAttention(channels, word_width, norm="layer")
        self.reduce = nn.ModuleList(_reduction(channels, narrow) for _ in pyramid)
        self.pooled = nn.ModuleList(PixelWordAttention(narrow, word_width, norm="layer") for _ in pyramid)
        mixed = len(pyramid) * narrow + channels
        layers = nn.Linear(mixed, channels), nn.LayerNorm(channels), nn.Linear(channels, channels), nn.GELU()
        self.mixer = nn.Sequential(*layers)

    def forward(self, pixels: Tensor, words: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        fused, first = self.full(pixels, words, token_mask), self.mixer[0]
        pooled = [to_tokens(self.read_pooled(i, pixels, words, token_mask)) for i in range(len(self.pyramid))]
        # the mixer's first layer acts on each scale before it is enlarged: equal, and the wide map is never made
        *parts, own = first.weight.split([*(x.shape[-1] for x in pooled), fused.shape[1]], dim=1)
        coarse = torch.cat([F.linear(x, part) for x, part in zip(pooled, parts)], dim=1)  # (B,Σp²,C)
        enlarge = enlarging(self.pyramid, tuple(pixels.shape[-2:]), pixels.device)
        mixed = F.linear(to_tokens(fused), own, first.bias) + enlarge @ coarse
        return fused, to_map(self.mixer[1:](mixed), pixels.shape[-2:])

    def read_pooled(self, index: int, pixels: Tensor, words: Tensor, token_mask: Tensor) -> Tensor:
        """What the map pooled to p rows and columns, p = pyramid[index], reads from the words: (B,C/4,p,p)."""
        pooled = F.adaptive_avg_pool2d(pixels, self.pyramid[index])
        pooled = to_map(self.reduce[index](to_tokens(pooled)), pooled.shape[-2:])
        return self.pooled[index](pooled, words, token_mask)


@lru_cache(maxsize=64)
def enlarging(pyramid: tuple[int, ...], size: tuple[int, int], device: torch.device) -> Tensor:
    """The matrix (H·W,Σp²) that resizes the maps of p rows and columns, given one after another, to `size`, and adds
    them up; float32, as `resize` does it."""
    with torch.inference_mode(False):  # what is kept must serve training, too
        units = (torch.eye(p * p, device=device).view(1, p * p, p, p) for p in pyramid)
        return torch.cat([to_tokens(resize(unit, size))[0] for unit in units], dim=1)


def _reduction(channels: int, narrow: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, 4 * channels, bias=False),
        nn.LayerNorm(4 * channels, eps=1e-6),
        nn.Linear(4 * channels, channels, bias=False),
        nn.GELU(),
        nn.Linear(channels, narrow, bias=False),
    )


class CAMTextSide(nn.Module):
    """Words (B,T,D) read pixels (B,C,H,W) and are changed by what they read, through a gate.

    `form` "live" is our choice for training: padding takes no part, and the gate starts closed but learns. "released"
    computes what the released network does: the language encoder's additive mask (0 valid, -1e4 padding) stands where
    a mask of ones and zeros is meant, so valid words all read the mean pixel; padding counts in the norm; and both
    matrices of the gate start at zero, so no gradient ever reaches it. Where the gate is closed for good, as in the
    released files, evaluation leaves all of this out.
    """

    def __init__(self, channels: int, word_width: int, form: str = "live"):
        super().__init__()
        self.form = form
        self.word = nn.Linear(word_width, word_width)
        self.query = nn.Linear(word_width, word_width)
        self.key = nn.Linear(channels, word_width, bias=False)  # a bias would not outlive the norm
        self.value = nn.Linear(channels, word_width, bias=False)
        self.out = nn.Linear(word_width, word_width)
        self.mix = nn.Linear(word_width, word_width)
        self.gate = LanguageGate(word_width, "zero")
        if form == "released":
            nn.init.zeros_(self.gate.inner.weight)

    def attention(self, words: Tensor, pixels: Tensor, token_mask: Tensor) -> Tensor:
        """How much each word reads each of the N = H·W pixels: (B,T,N), rows sum to 1."""
        centred = centre(to_tokens(pixels))
        return self._attention(words, token_mask, centred, norm_scale(self.key.weight, centred))

    def _attention(self, words: Tensor, token_mask: Tensor, centred: Tensor, scale: Tensor) -> Tensor:
        mask = token_mask.float()[:, :, None]  # (B,T,1)
        if self.form == "released":
            mask = 1e4 * (mask - 1)
        query = self.query(words) * mask * scale[:, None] @ self.key.weight  # (B,T,C): in the pixels' own channels
        scores = query @ centred.transpose(1, 2) / self.key.out_features**0.5
        return (scores + (1e4 * mask - 1e4)).softmax(dim=-1)  # the shift only rounds the released form's padding

    def forward(self, words: Tensor, pixels: Tensor, token_mask: Tensor) -> Tensor:
        if not self.training and self.gate.is_closed():
            return words
        centred = centre(to_tokens(pixels))
        key_scale, value_scale = norm_scale(torch.cat([self.key.weight, self.value.weight]), centred).chunk(2, dim=1)
        read = self._attention(words, token_mask, centred, key_scale) @ centred  # (B,T,C)
        read = self.out(self.value(read) * value_scale[:, None])  # (B,T,D)
        gathered = instance_norm(read, None if self.form == "released" else token_mask)
        fused = F.gelu(self.mix(F.gelu(self.word(words)) * gathered))
        return words + self.gate.opening(fused) * fused


def centre(tokens: Tensor) -> Tensor:
    """(B,N,C) minus the mean over all N positions; float32."""
    with torch.autocast(tokens.device.type, enabled=False):
        return tokens.float() - tokens.float().mean(1, keepdim=True)


def norm_scale(weight: Tensor, centred: Tensor, eps: float = 1e-5) -> Tensor:
    """The scales s (B,D) with instance_norm(tokens·Wᵀ) = (centred·Wᵀ)·s for a matrix W (D,C).

    So the N normed positions of width D need never be made: words are few, and scaled instead. Where positions are
    many, their covariance gives the variances; where they are fewer than channels, making them is cheaper.
    """
    with torch.autocast(centred.device.type, enabled=False):
        num, channels = centred.shape[1:]
        if num < channels:
            variance = (centred @ weight.T).square().mean(1)
        else:
            columns = weight.T.contiguous()  # (C,D): in this order the product below needs no copy
            variance = ((centred.transpose(1, 2) @ centred / num) @ columns * columns).sum(1)
        return torch.rsqrt(variance + eps)
