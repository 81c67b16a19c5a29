"""MagNet's Cross-modal Alignment Module: after a stage, pixels read words at several scales, and words read pixels."""

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
        size = pixels.shape[-2:]
        fused = self.full(pixels, words, token_mask)
        maps = [resize(self.read_pooled(i, pixels, words, token_mask), size) for i in range(len(self.pyramid))]
        return fused, to_map(self.mixer(to_tokens(torch.cat([*maps, fused], dim=1))), size)

    def read_pooled(self, index: int, pixels: Tensor, words: Tensor, token_mask: Tensor) -> Tensor:
        """What the map pooled to p rows and columns, p = pyramid[index], reads from the words: (B,C/4,p,p)."""
        pooled = F.adaptive_avg_pool2d(pixels, self.pyramid[index])
        pooled = to_map(self.reduce[index](to_tokens(pooled)), pooled.shape[-2:])
        return self.pooled[index](pooled, words, token_mask)


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
    matrices of the gate start at zero, so no gradient ever reaches it.
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
        return self._attention(words, token_mask, *moments(to_tokens(pixels)))

    def _attention(self, words: Tensor, token_mask: Tensor, centred: Tensor, covariance: Tensor) -> Tensor:
        mask = token_mask.float()[:, :, None]  # (B,T,1)
        if self.form == "released":
            mask = 1e4 * (mask - 1)
        query = self.query(words) * mask @ normed_weight(self.key, covariance)  # (B,T,C): in the pixels' own channels
        scores = query @ centred.transpose(1, 2) / self.key.out_features**0.5
        return (scores + (1e4 * mask - 1e4)).softmax(dim=-1)  # the shift only rounds the released form's padding

    def forward(self, words: Tensor, pixels: Tensor, token_mask: Tensor) -> Tensor:
        centred, covariance = moments(to_tokens(pixels))
        read = self._attention(words, token_mask, centred, covariance) @ centred  # (B,T,C)
        read = self.out(read @ normed_weight(self.value, covariance).transpose(1, 2))  # (B,T,D)
        gathered = instance_norm(read, None if self.form == "released" else token_mask)
        fused = F.gelu(self.mix(F.gelu(self.word(words)) * gathered))
        return words + self.gate.opening(fused) * fused


def moments(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Of (B,N,C): each position minus the mean of all, and the covariance of the channels (B,C,C); float32."""
    with torch.autocast(tokens.device.type, enabled=False):
        centred = tokens.float() - tokens.float().mean(1, keepdim=True)
        return centred, centred.transpose(1, 2) @ centred / tokens.shape[1]


def normed_weight(linear: nn.Linear, covariance: Tensor, eps: float = 1e-5) -> Tensor:
    """The matrices M (B,D,C) with instance_norm(linear(tokens)) = centred·Mᵀ.

    The N normed positions of width D, many times the size of the tokens, need never be made.
    """
    with torch.autocast(covariance.device.type, enabled=False):
        variance = ((linear.weight @ covariance) * linear.weight).sum(-1)  # (B,D)
        return linear.weight * torch.rsqrt(variance + eps)[:, :, None]
