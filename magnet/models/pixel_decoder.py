"""MagNet's pixel decoder: deformable attention lets the maps of all stages read one another (Zhu et al., ICLR 2021)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

from magnet.models.attention import to_map, to_tokens

Sizes = list[tuple[int, int]]  # (H_i, W_i) of every scale, in the order of the tokens


class PixelDecoder(nn.Module):
    """Stage maps (B,C_i,H_i,W_i), finest first -> maps of `width` channels, coarsest first, and mask features.

    Mask features (B,width,H_1,W_1) are a linear map of the finest scale. Tokens and scales are in coarsest-first order.
    """

    def __init__(
        self, channels: list[int], width: int, *, num_layers: int, num_heads: int, num_points: int, feedforward: int
    ):
        super().__init__()
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, kernel_size=1), nn.GroupNorm(math.gcd(32, width), width))
            for c in reversed(channels)
        )
        self.scale_embedding = nn.Parameter(torch.randn(len(channels), width))
        sizes = (width, num_heads, len(channels), num_points, feedforward)
        self.layers = nn.ModuleList(DeformableLayer(*sizes) for _ in range(num_layers))
        self.mask_features = nn.Conv2d(width, width, kernel_size=1)
        self.sine = sine_position(width)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        maps = [project(x) for project, x in zip(self.project, reversed(maps))]
        sizes = [tuple(x.shape[-2:]) for x in maps]
        tokens = torch.cat([to_tokens(x) for x in maps], dim=1)  # (B,N,width), N over all scales
        sines = [to_tokens(self.sine((1, *x.shape[1:]), x.device, torch.float32)) for x in maps]
        position = torch.cat([sine + row for sine, row in zip(sines, self.scale_embedding)], dim=1)
        for layer in self.layers:
            tokens = layer(tokens, position, sizes)
        lengths = [height * width for height, width in sizes]
        maps = [to_map(part, size) for part, size in zip(tokens.split(lengths, dim=1), sizes)]
        return maps, self.mask_features(maps[-1])


def sine_position(width: int) -> nn.Module:
    """Half of `width` for the row, then half for the column: sine and cosine of (1..size)/size·2π at many rates."""
    return Mask2FormerSinePositionEmbedding(num_position_features=width // 2, normalize=True)


class DeformableLayer(nn.Module):
    """Deformable self-attention over all scales, then a feed-forward network, each followed by its norm."""

    def __init__(self, width: int, num_heads: int, num_scales: int, num_points: int, feedforward: int):
        super().__init__()
        self.attention = DeformableAttention(width, num_heads, num_scales, num_points)
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(nn.Linear(width, feedforward), nn.ReLU(), nn.Linear(feedforward, width))
        self.feedforward_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, position: Tensor, sizes: Sizes) -> Tensor:
        tokens = self.attention_norm(tokens + self.attention(tokens + position, tokens, sizes))
        return self.feedforward_norm(tokens + self.feedforward(tokens))


class DeformableAttention(nn.Module):
    """Each query reads each scale at a few positions of its own choice around where it stands.

    Query and value tokens are (B,N,D), the pixels of all scales one after another.
    """

    def __init__(self, width: int, num_heads: int, num_scales: int, num_points: int):
        super().__init__()
        self.shape = (num_heads, num_scales, num_points)
        self.offsets = nn.Linear(width, 2 * math.prod(self.shape))  # (x, y) in pixels of the scale that is read
        self.weights = nn.Linear(width, math.prod(self.shape))
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self._start_as_a_star()

    def _start_as_a_star(self) -> None:
        """At first each head reads in a direction of its own, 1, 2... pixels away, with equal weights (Zhu et al.)."""
        angle = torch.arange(self.shape[0]) * 2 * math.pi / self.shape[0]
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)  # (heads,2), on the unit square
        distance = torch.arange(1, self.shape[2] + 1)[:, None]
        star = (direction[:, None, None] * distance).expand(*self.shape, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(star.flatten())
        for parameter in (self.offsets.weight, self.weights.weight, self.weights.bias):
            nn.init.zeros_(parameter)

    def sampling(self, query: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
        """Where each query (B,N,D) reads, as `read_scales` takes it, and with what weights, which sum to 1 a head."""
        offsets = self.offsets(query).float().unflatten(-1, (*self.shape, 2))  # (B,N,heads,scales,points,2)
        weights = self.weights(query).float().unflatten(-1, (self.shape[0], -1)).softmax(-1)
        extent = offsets.new_tensor([(width, height) for height, width in sizes])[:, None]  # (scales,1,2)
        position = pixel_centres(sizes, query.device)[:, None, None, None] * extent + offsets - 0.5
        return position, weights.unflatten(-1, self.shape[1:])

    def forward(self, query: Tensor, value: Tensor, sizes: Sizes) -> Tensor:
        value = self.value(value).unflatten(-1, (self.shape[0], -1))  # (B,N,heads,d)
        return self.out(read_scales(value, sizes, *self.sampling(query, sizes)).flatten(2))


def pixel_centres(sizes: Sizes, device: torch.device) -> Tensor:
    """(N,2): x and y of every pixel of every scale, from 0 to 1."""
    grids = [torch.cartesian_prod(*((torch.arange(n, device=device) + 0.5) / n for n in size)) for size in sizes]
    return torch.cat(grids).flip(-1)


def read_scales(value: Tensor, sizes: Sizes, position: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear readings; outside a map there are zeros.

    Values (B,N,heads,d), positions (B,Q,heads,scales,points,2) as x and y in pixels of each scale with 0 at the first
    pixel's centre, weights (B,Q,heads,scales,points) -> (B,Q,heads,d). One gather by `embedding_bag`, several times as
    fast on a CPU as `grid_sample` per scale and the same to rounding.
    """
    table, start = _pad_with_zeros(value, sizes)  # (B,N',heads,d)
    batch, num_rows, num_heads, depth = table.shape
    extent = position.new_tensor([(width, height) for height, width in sizes])[:, None]  # (scales,1,2)
    position = position.clamp(min=-1).minimum(extent)  # further out there is nothing but zeros, either
    low = position.detach().floor().minimum(extent - 1)  # the neighbour to the left and above, from -1 on
    upper_share = position - low
    share = torch.stack([1 - upper_share, upper_share], dim=-1)  # (B,Q,heads,scales,points,2,2): x or y, low or high
    share = (weights[..., None] * share[..., 1, :])[..., :, None] * share[..., 0, None, :]

    line = extent[:, :, 0].int() + 2  # (scales,1): the length of a padded row
    x, y = (low.int() + 1).unbind(-1)
    image = torch.arange(batch, device=value.device, dtype=torch.int32).view(-1, 1, 1, 1, 1) * num_rows
    head = torch.arange(num_heads, device=value.device, dtype=torch.int32).view(-1, 1, 1)
    row = (image + start[:, None] + y * line + x) * num_heads + head  # (B,Q,heads,scales,points)
    neighbours = torch.stack([torch.zeros_like(line), torch.ones_like(line), line, line + 1], dim=-1) * num_heads
    bags = math.prod(position.shape[:3])
    read = F.embedding_bag(
        (row[..., None] + neighbours).view(bags, -1), table.view(-1, depth),
        per_sample_weights=share.reshape(bags, -1), mode="sum",
    )  # fmt: skip
    return read.view(*position.shape[:3], depth)


def _pad_with_zeros(value: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Values (B,N,heads,d) with a frame of zeros around every map, and the first row (scales,) of each map."""
    parts = value.float().split([height * width for height, width in sizes], dim=1)
    parts = [part.unflatten(1, size) for part, size in zip(parts, sizes)]  # (B,H_i,W_i,heads,d)
    framed = [F.pad(part, (0, 0, 0, 0, 1, 1, 1, 1)).flatten(1, 2) for part in parts]
    lengths = torch.tensor([0, *(part.shape[1] for part in framed[:-1])], device=value.device, dtype=torch.int32)
    return torch.cat(framed, dim=1), lengths.cumsum(0, dtype=torch.int32)
