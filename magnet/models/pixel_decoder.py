"""MagNet's pixel decoder: deformable attention lets the maps of all stages read one another (Zhu et al., ICLR 2021)."""

import math
from collections.abc import Callable
from functools import lru_cache
from operator import call

import torch
from torch import Tensor, nn

from magnet.models.attention import to_map, to_tokens
from magnet.models.positions import sine_position
from magnet.models.scale_reading import Sizes, read_scales


class PixelDecoder(nn.Module):
    """Stage maps (B,C_i,H_i,W_i), finest first -> maps of `width` channels, coarsest first, and mask features.

    Mask features (B,width,H_1,W_1) are a linear map of the finest scale. Tokens and scales are in coarsest-first order.
    """

    def __init__(
        self, channels: list[int], width: int, *, num_layers: int, num_heads: int, num_points: int, feedforward: int
    ):
        super().__init__()
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, kernel_size=1), nn.GroupNorm(_num_groups(width), width))
            for c in reversed(channels)
        )
        self.scale_embedding = nn.Parameter(torch.randn(len(channels), width))
        sizes = (width, num_heads, len(channels), num_points, feedforward)
        self.layers = nn.ModuleList(DeformableLayer(*sizes) for _ in range(num_layers))
        self.mask_features = nn.Conv2d(width, width, kernel_size=1)

    def forward(self, maps: list[Tensor], run: Callable = call) -> tuple[list[Tensor], Tensor]:
        """`run(layer, *inputs)` gives what the layer gives; it may save memory on the way."""
        maps = [project(x) for project, x in zip(self.project, reversed(maps))]
        sizes = [tuple(x.shape[-2:]) for x in maps]
        tokens = torch.cat([to_tokens(x) for x in maps], dim=1)  # (B,N,width), N over all scales
        sines = [to_tokens(sine_position(x)) for x in maps]
        position = torch.cat([sine + row for sine, row in zip(sines, self.scale_embedding)], dim=1)
        position = position.to(tokens.dtype)  # the sum of both is rounded to it anyway
        for layer in self.layers:
            tokens = run(layer, tokens, position, sizes)
        lengths = [height * width for height, width in sizes]
        maps = [to_map(part, size) for part, size in zip(tokens.split(lengths, dim=1), sizes)]
        return maps, self.mask_features(maps[-1])


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
        position = offsets + own_places(tuple(sizes), self.shape[2], query.device)
        return position, weights.unflatten(-1, self.shape[1:])

    def forward(self, query: Tensor, value: Tensor, sizes: Sizes) -> Tensor:
        value = self.value(value).unflatten(-1, (self.shape[0], -1))  # (B,N,heads,d)
        return self.out(read_scales(value, sizes, *self.sampling(query, sizes)).flatten(2))


def _num_groups(width: int) -> int:
    """32 as released; in a narrow decoder fewer, so that a group has four channels or more: a norm of each channel
    over all positions takes out whatever the sentence says to all of them alike (our choice)."""
    return math.gcd(32, width // 4)


@lru_cache(maxsize=16)
def own_places(sizes: tuple[tuple[int, int], ...], points: int, device: torch.device) -> Tensor:
    """(N,1,scales,points,2): where each pixel of every scale lies in every scale, as `read_scales` counts; the same
    for all points, as a CPU adds long rows faster."""
    with torch.inference_mode(False):  # what is kept must serve training, too
        extent = torch.tensor([(width, height) for height, width in sizes], device=device)[:, None]  # (scales,1,2)
        places = pixel_centres(sizes, device)[:, None, None, None] * extent - 0.5
        return places.repeat(1, 1, 1, points, 1)


def pixel_centres(sizes: Sizes, device: torch.device) -> Tensor:
    """(N,2): x and y of every pixel of every scale, from 0 to 1."""
    grids = [torch.cartesian_prod(*((torch.arange(n, device=device) + 0.5) / n for n in size)) for size in sizes]
    return torch.cat(grids).flip(-1)
