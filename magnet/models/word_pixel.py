"""CoupAlign's word-pixel alignment, the words' side: after a stage, words read pixels. Pixels read words as in LAVT."""

import torch
from torch import Tensor, nn

from magnet.models.attention import to_tokens


class WordPixelAttention(nn.Module):
    """l + tanh(α)·attention(LayerNorm(l), x, x): words l (B,T,D) read pixels x (B,C,H,W), through one learned number.

    α is 0 at the start, so a language encoder starts as it was; yet α gets a gradient, and with it the rest soon does.
    D must be a multiple of `num_heads`. The paper names both directions; this form is our choice.
    """

    def __init__(self, channels: int, word_width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(word_width)
        self.query = nn.Linear(word_width, word_width)
        self.key = nn.Linear(channels, word_width, bias=False)  # a bias would shift a word's scores all alike
        self.value = nn.Linear(channels, word_width)
        self.out = nn.Linear(word_width, word_width)
        self.gate = nn.Parameter(torch.zeros(()))  # α

    def attention(self, words: Tensor, pixels: Tensor) -> Tensor:
        """How much each word reads each of the N = H·W pixels in every head: (B,heads,T,N), rows sum to 1."""
        key = self._heads(self.key.weight)  # (heads,D/heads,C): acts on the few words instead of the many pixels, equal
        query = self._heads(self.query(self.norm(words)).transpose(1, 2)).transpose(2, 3) @ key  # (B,heads,T,C)
        scores = query.flatten(1, 2) @ pixels.flatten(2) / key.shape[1] ** 0.5
        return scores.softmax(dim=-1).unflatten(1, (self.num_heads, -1))

    def forward(self, words: Tensor, pixels: Tensor) -> Tensor:
        read = self.attention(words, pixels).flatten(1, 2) @ to_tokens(pixels)  # (B,heads·T,C)
        read = read.unflatten(1, (self.num_heads, -1)) @ self._heads(self.value.weight).transpose(1, 2)
        read = read.transpose(1, 2).flatten(2) + self.value.bias  # (B,T,D); after reading, as rows sum to 1
        return words + self.gate.tanh() * self.out(read)

    def _heads(self, x: Tensor) -> Tensor:
        """(...,D,n) -> (...,heads,D/heads,n)."""
        return x.unflatten(-2, (self.num_heads, -1))
