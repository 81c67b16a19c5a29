"""How pixels read words: pixel-word attention and the gate that lets its result into the backbone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PixelWordAttention(nn.Module):
    """LAVT's pixel-word attention, one head (LAVT, section 3.2).

    Takes pixels (B,C,H,W), words (B,T,D) and a token mask (B,T) of 1 valid / 0 padding; gives fused features (B,C,H,W).
    `norm` of queries and of what was read: "instance", over positions, is LAVT's; "layer" is released MagNet's.
    """

    def __init__(self, channels: int, word_width: int, norm: str = "instance"):
        super().__init__()
        self.pixel = nn.Linear(channels, channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(word_width, channels)
        self.value = nn.Linear(word_width, channels)
        self.out = nn.Linear(channels, channels)
        self.query_norm, self.out_norm = (
            nn.LayerNorm(channels) if norm == "layer" else instance_norm for _ in range(2)
        )
        self.mix = nn.Linear(channels, channels)

    def attention(self, pixels: Tensor, words: Tensor, token_mask: Tensor) -> Tensor:
        """How much each of the N = H·W pixels reads each word: (B,N,T) float32, rows sum to 1."""
        mask, query = token_mask.float(), self.query_norm(self.query(to_tokens(pixels)))  # (B,T), (B,N,C)
        with torch.autocast(words.device.type, enabled=False):
            key = self.key(words.float()) * mask[:, :, None]  # (B,T,C)
            scores = query.float() @ key.transpose(1, 2) / key.shape[-1] ** 0.5
            return (scores + 1e4 * (mask[:, None, :] - 1)).softmax(dim=-1)

    def forward(self, pixels: Tensor, words: Tensor, token_mask: Tensor) -> Tensor:
        pixel, read = F.gelu(self.pixel(to_tokens(pixels))), self._read(pixels, words, token_mask)  # (B,N,C)
        return to_map(F.gelu(self.mix(pixel * self.out_norm(read).to(pixel.dtype))), pixels.shape[-2:])

    def _read(self, pixels: Tensor, words: Tensor, token_mask: Tensor) -> Tensor:
        """What pixels read, (B,N,C), float32 under autocast too: most read nearly the same, and the norm makes much of
        small differences, so of rounding errors as well. Words are few, which makes it cheap."""
        attention = self.attention(pixels, words, token_mask)
        with torch.autocast(words.device.type, enabled=False):
            value = self.value(words.float()) * token_mask.float()[:, :, None]  # (B,T,C)
            value = F.linear(value, self.out.weight)  # `out` on the few words instead of what pixels read: equal
            return attention @ value + self.out.bias


class LanguageGate(nn.Module):
    """x + tanh(W2·act(W1·F)) ⊙ F on maps (B,C,H,W): how much of the fused features enters the backbone.

    `init` "normal": both matrices normal(0.02), as LAVT's code trains; "zero": W2 starts at zero, so the backbone
    starts unchanged and the gate still gets a gradient (our choice of which matrix). `activation` is LAVT's ReLU.
    """

    def __init__(self, channels: int, init: str = "normal", activation: Callable[[Tensor], Tensor] = F.relu):
        super().__init__()
        self.activation = activation
        self.inner = nn.Linear(channels, channels, bias=False)
        self.outer = nn.Linear(channels, channels, bias=False)
        nn.init.normal_(self.inner.weight, std=0.02)
        nn.init.normal_(self.outer.weight, std=0.0 if init == "zero" else 0.02)
        self._state, self._closed = None, False

    def is_closed(self) -> bool:
        """Whether the gate lets nothing through, whatever comes: one of its matrices is zero. Looked up anew only where
        a matrix has changed or was trained: torch does not count what its fused optimizers change."""
        weights = self.inner.weight, self.outer.weight
        if weights[0].is_inference():  # such tensors do not say whether they have changed
            return not all(bool(weight.any()) for weight in weights)
        state = [(weight.data_ptr(), weight._version) for weight in weights]
        if state != self._state:
            self._state, self._closed = state, not all(bool(weight.any()) for weight in weights)
        return self._closed

    def opening(self, tokens: Tensor) -> Tensor:
        """(B,N,C) -> (B,N,C) in -1 to 1."""
        self._state = None if self.training else self._state
        return torch.tanh(self.outer(self.activation(self.inner(tokens))))

    def forward(self, x: Tensor, fused: Tensor) -> Tensor:
        return x + to_map(self.opening(to_tokens(fused)), x.shape[-2:]) * fused


def instance_norm(tokens: Tensor, mask: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Normalise (B,N,C) over its N positions, not affine; a single position gives zeros.

    With `mask` (B,N) the statistics are those of the positions where it is 1; where none is, the numbers mean nothing.
    """
    tokens = tokens.float()  # statistics in float32 under autocast
    if mask is None:  # several times as fast on a CPU as the formula below
        return F.layer_norm(tokens.transpose(1, 2), tokens.shape[1:2], eps=eps).transpose(1, 2)
    share = (mask / mask.sum(1, keepdim=True).clamp(min=1))[:, :, None]
    mean = (share * tokens).sum(1, keepdim=True)
    variance = (share * (tokens - mean).square()).sum(1, keepdim=True)
    return (tokens - mean) * torch.rsqrt(variance + eps)


def to_tokens(x: Tensor) -> Tensor:
    """Map (B,C,H,W) -> (B,H·W,C), row by row."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B,H·W,C) -> map (B,C,H,W)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(size))
