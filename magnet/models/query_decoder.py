"""MagNet's query decoder: one learned query looks for the object, layer by layer inside its own last mask.

Mask2Former's decoder (Cheng et al., CVPR 2022) with a single query.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magnet.models.attention import to_map, to_tokens
from magnet.models.mask_detail import add_detail
from magnet.models.positions import sine_position


class QueryDecoder(nn.Module):
    """Maps of `width` channels, coarsest first, and mask features (B,width,h,w) -> num_layers + 1 mask logits (B,h,w),
    and the final query (B,1,width), normed.

    The layers take turns in reading the maps. The first prediction is made before the first layer. With `detail`
    features (B,c,2h,2w) the logits are (B,2h,2w).
    """

    def __init__(
        self, width: int, *, num_scales: int, num_layers: int, num_heads: int, feedforward: int, detail: int = 0
    ):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.randn(1, width))
        self.query_position = nn.Parameter(torch.randn(1, width))
        self.scale_embedding = nn.Parameter(torch.randn(num_scales, width))
        self.layers = nn.ModuleList(QueryLayer(width, num_heads, feedforward) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.mask_embedding = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.detail_embedding = nn.Linear(width, detail) if detail else None

    def forward(
        self, maps: list[Tensor], mask_features: Tensor, detail: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        values = [to_tokens(x) + row for x, row in zip(maps, self.scale_embedding)]  # (B,N_i,width)
        keys = [v + to_tokens(sine_position(x)) for v, x in zip(values, maps)]
        query = self.query.expand(len(mask_features), -1, -1)  # (B,1,width)
        predictions = [self.predict(query, mask_features, detail)]
        for index, layer in enumerate(self.layers):
            scale = index % len(maps)
            blocked = blocked_pixels(predictions[-1], maps[scale].shape[-2:])
            blocked = blocked[:, None].repeat_interleave(self.num_heads, dim=0)  # (B·heads,1,N_i)
            query = layer(query, self.query_position, keys[scale], values[scale], blocked)
            predictions.append(self.predict(query, mask_features, detail))
        return predictions, self.norm(query)

    def predict(self, query: Tensor, mask_features: Tensor, detail: Tensor | None = None) -> Tensor:
        """Query (B,1,width) -> mask logits (B,h,w): its embedding's dot product with every pixel's features."""
        query = self.norm(query)
        embedding = self.mask_embedding(query).transpose(1, 2)  # (B,width,1)
        logits = to_map(to_tokens(mask_features) @ embedding, mask_features.shape[-2:])[:, 0]
        return logits if detail is None else add_detail(logits, self.detail_embedding(query), detail)


def blocked_pixels(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits (B,h,w) -> (B,H·W) bool: the background of the mask resized to `size`; nothing, if that is all."""
    resized = F.interpolate(mask_logits[:, None].detach().float(), size=tuple(size), mode="bilinear")
    blocked = resized.flatten(1).sigmoid() < 0.5
    return blocked & ~blocked.all(dim=1, keepdim=True)


class QueryLayer(nn.Module):
    """Cross-attention to the pixels, self-attention, feed-forward network, each followed by its norm.

    With one query, self-attention's weights are 1 whatever queries and keys are; it stays the standard block.
    """

    def __init__(self, width: int, num_heads: int, feedforward: int):
        super().__init__()
        self.cross_attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.cross_norm = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.self_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(nn.Linear(width, feedforward), nn.ReLU(), nn.Linear(feedforward, width))
        self.feedforward_norm = nn.LayerNorm(width)

    def forward(self, query: Tensor, position: Tensor, key: Tensor, value: Tensor, blocked: Tensor) -> Tensor:
        """Query (B,1,D) and its position (1,D), keys and values (B,N,D), blocked (B·heads,1,N) -> query (B,1,D)."""
        read, _ = self.cross_attention(query + position, key, value, attn_mask=blocked, need_weights=False)
        query = self.cross_norm(query + read)
        placed = query + position
        query = self.self_norm(query + self.self_attention(placed, placed, query, need_weights=False)[0])
        return self.feedforward_norm(query + self.feedforward(query))
