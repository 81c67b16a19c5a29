"""What can be read from a vision backbone's maps, stage by stage: linear probes, receptive fields, costs.

    train, test = probes.draw_pixels("train", 1000), probes.draw_pixels("val", 400)
    probes.probe_stages(backbone, train, test)    # how often a linear map tells colour and shape, with intervals

RefShapes knows the colour and the shape of every pixel's object, so nothing has to be labelled. Linear probes: Alain
and Bengio, 2017. Effective receptive fields: Luo, Li, Urtasun and Zemel, 2016.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magnet.config import VisionConfig
from magnet.data.dataset import normalize
from magnet.evaluate import evaluation_mode
from magnet.models.vision import VisionBackbone
from magnet.optimizer import has_bfloat16
from magnet.refshapes.draw import render
from magnet.refshapes.pretrain import all_stages
from magnet.refshapes.scene import COLOURS, SHAPES, draw_scene
from magnet.runs import Run
from magnet.statistics import LEVEL, bootstrap

ASKED = {"colour": tuple(COLOURS), "shape": SHAPES}  # what is asked about the object at a pixel
PICTURES_AT_ONCE = 100


@dataclass(frozen=True)
class Pixels:
    """Pixels of objects, with what is known about the object.

    images: (N,3,S,S), ImageNet-normalised. picture, row, column: (M,) int64, where each pixel is. labels: for "colour"
    and "shape" (M,) int64, the position of the right answer in ASKED.
    """

    images: Tensor
    picture: Tensor
    row: Tensor
    column: Tensor
    labels: dict[str, Tensor]

    def of(self, pictures: Tensor) -> "Pixels":
        """The pixels of some pictures, numbered anew in the order of `pictures` (B,), none of them twice."""
        number = torch.full((len(self.images),), -1)
        number[pictures] = torch.arange(len(pictures))
        keep = number[self.picture] >= 0
        labels = {name: values[keep] for name, values in self.labels.items()}
        return Pixels(self.images[pictures], number[self.picture[keep]], self.row[keep], self.column[keep], labels)


def trained_backbone(run: Run) -> VisionBackbone:
    """A run's vision backbone in evaluation mode, with all its stages, also those that its network skips."""
    backbone = VisionBackbone(replace(all_stages(run.config.model.vision), pretrained=None))
    backbone.body.load_state_dict(run.load_model().vision.body.state_dict())
    return backbone.eval()


def draw_pixels(split: str, num_pictures: int, per_object: int = 1, image_size: int = 96, seed: int = 0) -> Pixels:
    """`per_object` pixels, drawn from what is visible of every object, of so many fresh RefShapes scenes."""
    rng, images, rows = np.random.default_rng(seed), [], []
    for number in range(num_pictures):
        scene = draw_scene(seed, number, split)
        image, masks = render(scene, image_size)
        images.append(normalize(image))
        for thing, mask in zip(scene.objects, masks):
            answers = [list(COLOURS).index(thing.colour), SHAPES.index(thing.shape)]
            places = np.argwhere(mask)
            rows += [[number, *place, *answers] for place in places[rng.integers(len(places), size=per_object)]]
    picture, row, column, *answers = torch.tensor(np.array(rows)).unbind(1)
    return Pixels(torch.stack(images), picture, row, column, dict(zip(ASKED, answers)))


def features_at(maps: Sequence[Tensor], pixels: Pixels) -> list[Tensor]:
    """For each map (N,C,h,w) of the pictures what stands in the cell that holds each pixel: (M,C), float32."""
    height, width = pixels.images.shape[-2:]
    return [
        x[pixels.picture, :, pixels.row * x.shape[2] // height, pixels.column * x.shape[3] // width].float()
        for x in maps
    ]


@torch.no_grad()
def stage_features(backbone: VisionBackbone, pixels: Pixels) -> list[Tensor]:
    """`features_at` for the picture itself (its three colour values) and for every stage of the backbone."""
    parts = []
    with evaluation_mode(backbone):
        for start in range(0, len(pixels.images), PICTURES_AT_ONCE):
            some = pixels.of(torch.arange(start, min(start + PICTURES_AT_ONCE, len(pixels.images))))
            parts.append(features_at([some.images, *backbone(some.images)], some))
    return [torch.cat(stage) for stage in zip(*parts)]


def linear_probe(train: Tensor, answers: Tensor, test: Tensor, decay: float = 1e-3) -> Tensor:
    """The classes (K,) that multinomial regression on features (M,C) with answers (M,) gives to features (K,C)."""
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    train, test = ((x - mean) / deviation for x in (train, test))
    weight = torch.zeros(train.shape[1], int(answers.max()) + 1, requires_grad=True)
    bias = torch.zeros(weight.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(train @ weight + bias, answers) + decay * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return (test @ weight + bias).argmax(1).detach()


def probe_stages(backbone: VisionBackbone, train: Pixels, test: Pixels) -> pd.DataFrame:
    """One row for each question and stage (0 is the pixel itself): `accuracy` on `test` of a probe fitted on `train`.

    The backbone is frozen, runs without any words, and keeps its mode.
    """
    stages = list(zip(stage_features(backbone, train), stage_features(backbone, test)))
    rows = []
    for name in ASKED:
        for stage, (known, asked) in enumerate(stages):
            right = linear_probe(known, train.labels[name], asked) == test.labels[name]
            rows.append({"asked": name, "stage": stage, **accuracy(right, test.picture)})
    return pd.DataFrame(rows)


def accuracy(right: Tensor, groups: Tensor, num_draws: int = 2000) -> dict[str, float]:
    """Percent of right answers (M,) bool: accuracy, accuracy_low, accuracy_high, n; 95 % intervals over `groups` (M,).

    Answers about one picture, or one scene's sentences, belong together: they are drawn together.
    """
    right = np.asarray(right, float)
    draws = bootstrap(pd.Series(np.asarray(groups)), [(right, np.ones_like(right))], num_draws)[:, 0]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"accuracy": 100 * right.mean(), "accuracy_low": low, "accuracy_high": high, "n": len(right)}


def chance(pixels: Pixels) -> dict[str, float]:
    """Percent right of always giving the most frequent answer, for each question."""
    return {name: 100 * float(answers.bincount().max()) / len(answers) for name, answers in pixels.labels.items()}


def train_on_pixels(
    backbone: VisionBackbone, pixels: Pixels, num_steps: int, batch_size: int = 32, lr: float = 4e-3, seed: int = 0
) -> pd.DataFrame:
    """Train a backbone, without words, to tell colour and shape of the object at a pixel.

    One linear map for each question reads all stages at once, so no stage is told which of the two is its business.
    Returns one row a step: step, loss, and the percent right for each question in that step's pictures.
    """
    torch.manual_seed(seed)
    heads = nn.ModuleDict({name: nn.Linear(sum(backbone.channels), len(ASKED[name])) for name in ASKED})
    optimizer = torch.optim.AdamW([*backbone.parameters(), *heads.parameters()], lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=num_steps, pct_start=0.1)
    quick = has_bfloat16(torch.device("cpu"))
    log = []
    backbone.train()
    for step in range(1, num_steps + 1):
        some = pixels.of(torch.randperm(len(pixels.images))[:batch_size])
        with torch.autocast("cpu", torch.bfloat16, enabled=quick):
            maps = backbone(some.images)
        read = torch.cat(features_at(maps, some), dim=1)
        logits = {name: head(read) for name, head in heads.items()}
        loss = sum(F.cross_entropy(logits[name], some.labels[name]) for name in ASKED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right = {name: 100 * float((logits[name].argmax(1) == some.labels[name]).float().mean()) for name in ASKED}
        log.append({"step": step, "loss": loss.item(), **right})
    return pd.DataFrame(log)


def input_gradient(backbone: VisionBackbone, stage: int, images: Tensor) -> np.ndarray:
    """How much each input pixel moves the middle position of a stage's map: (H,W), sums to 1.

    The mean over images (B,3,H,W) of the gradient's size, for a random direction in the stage's channels.
    """
    images = images.clone().requires_grad_()
    with evaluation_mode(backbone):
        x = backbone(images)[stage]
    middle = x[:, :, x.shape[2] // 2, x.shape[3] // 2]
    direction = torch.randn(middle.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((middle * direction).sum(), images)
    size = gradient.abs().sum((0, 1)).double()
    return (size / size.sum()).numpy()


def reach(gradient: np.ndarray) -> int:
    """Side, in pixels, of the box around everything in (H,W) that is not zero; the larger one of its two sides."""
    touched = [np.flatnonzero(gradient.any(axis)) for axis in (0, 1)]
    return max(int(one[-1] - one[0]) + 1 for one in touched)


def effective_size(gradient: np.ndarray, share: float = 0.9) -> int:
    """Side, in pixels, of the smallest square around the middle of a gradient (H,W) that holds `share` of it."""
    rows, columns = np.indices(gradient.shape)
    row, column = ((gradient * places).sum() / gradient.sum() for places in (rows, columns))
    distance = np.maximum(abs(rows - row), abs(columns - column)).ravel()
    order = distance.argsort()
    needed = np.searchsorted(gradient.ravel()[order].cumsum(), share * gradient.sum())
    return round(2 * distance[order[needed]] + 1)


@torch.no_grad()
def compare_backbones(configs: Mapping[str, VisionConfig], image_size: int = 96, repeats: int = 5) -> pd.DataFrame:
    """One row a backbone, random weights: channels and strides of its stages, parameters in thousands, and the median
    milliseconds of a forward pass of one picture."""
    image, rows = torch.randn(1, 3, image_size, image_size), {}
    for name, config in configs.items():
        backbone = VisionBackbone(replace(config, pretrained=None)).eval()
        backbone(image)  # the first pass also fills caches
        rows[name] = {
            "channels": " ".join(map(str, backbone.channels)),
            "strides": " ".join(map(str, backbone.strides)),
            "thousand parameters": sum(p.numel() for p in backbone.parameters()) // 1000,
            "ms": round(statistics.median(_milliseconds(backbone, image) for _ in range(repeats)), 1),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _milliseconds(backbone: VisionBackbone, image: Tensor) -> float:
    began = time.perf_counter()
    backbone(image)
    return 1e3 * (time.perf_counter() - began)
