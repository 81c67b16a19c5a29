"""CoupAlign's mask generator: learned queries look at the picture and become mask embeddings, one a proposal."""

import torch
from torch import Tensor, nn

from magnet.models.attention import to_tokens
from magnet.models.positions import sine_position


class MaskGenerator(nn.Module):
    """Pixels (B,channels,H,W), which have read the words -> mask embeddings q (B,num_proposals,width).

    The dot product of q_n with a pixel's embedding says how much the pixel belongs to proposal n. Layers are DETR's:
    self-attention, cross-attention to the pixels and their sine positions, feed-forward network; without dropout.
    width must be a multiple of 4 and of num_heads. The paper names the generator; its sizes are our choice.
    """

    def __init__(
        self, channels: int, width: int, *, num_proposals: int, num_layers: int, num_heads: int, feedforward: int
    ):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_proposals, width))
        self.project = nn.Conv2d(channels, width, kernel_size=1)
        layer = nn.TransformerDecoderLayer(width, num_heads, feedforward, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, num_layers, norm=nn.LayerNorm(width))
        self.embedding = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        projected = self.project(pixels)
        memory = to_tokens(projected + sine_position(projected))  # (B,H·W,width)
        return self.embedding(self.decoder(self.queries.expand(len(pixels), -1, -1), memory))
