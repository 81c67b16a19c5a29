"""What bfloat16 changes: of the shipped networks' masks, of a training step, and what is made of the weights."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ASSETS, tiny_config, tiny_magnet
from torch.utils._python_dispatch import TorchDispatchMode

import magnet
from magnet import losses
from magnet.config import AlignmentConfig, GroundingConfig
from magnet.data import read_refer, select_split
from magnet.evaluate import resize_logits, score_expressions
from magnet.metrics import find_protocol, rle_decode
from magnet.models.attention import PixelWordAttention
from magnet.objective import Objective
from magnet.workbench.benchmark import random_batch

NUM_EXPRESSIONS, NUM_PHOTOS = 18, 4  # few: where bfloat16 is emulated a convolution takes long
TEXTS = ["the red star", "the large blue circle left of the ring", "the yellow triangle at the top"]
REAL = os.environ.get("MAGNET_REAL_DATA")


def scored(name: str, precision: str, num: int = NUM_EXPRESSIONS, **settings):
    predictor, run = magnet.load(name), magnet.runs.find(name)
    data = replace(predictor.data, root=str(ASSETS), num_workers=0)
    rows = select_split(read_refer(data.root, data.name, data.split_by), "val").iloc[:num]
    rules = [find_protocol("original")]
    settings |= {"precision": precision, "progress": False}
    return score_expressions(predictor.model, rows, data, run.config.model.language.vocabulary, rules, **settings)[0]


def same_masks(pairs) -> float:
    """IoU of masks with masks, all pixels of all pairs together."""
    both = either = 0
    for a, b in pairs:
        both, either = both + int((a & b).sum()), either + int((a | b).sum())
    return both / either


@pytest.mark.parametrize("name, bound", [("refshapes-tiny", 0.995), ("refshapes-tiny-lavt", 0.985)])
def test_masks_are_those_of_float32(name, bound):
    exact, rough = (scored(name, precision) for precision in ("float32", "bfloat16"))
    columns = zip(exact["rle"], rough["rle"], exact["height"], exact["width"])
    found = same_masks((rle_decode(a, *size) > 0, rle_decode(b, *size) > 0) for a, b, *size in columns)
    assert found >= bound


@pytest.mark.skipif(not REAL, reason="MAGNET_REAL_DATA is unset")
@pytest.mark.parametrize("name", ["refshapes-tiny", "refshapes-tiny-lavt"])
def test_photographs_are_seen_alike(name):
    """These networks know nothing but shapes and are sure of nothing in a photograph, so here outlines do move."""
    predictor, pairs, errors = magnet.load(name), [], []
    for picture in sorted(Path(REAL).glob("refcocog_google_val_mini/images/*.jpg"))[:NUM_PHOTOS]:
        predictor.set_image(picture)
        exact = predictor.ask(TEXTS)
        with torch.autocast("cpu", torch.bfloat16):
            rough = predictor.ask(TEXTS).float()
        pairs.append([resize_logits(logits, predictor.size) > 0 for logits in (exact, rough)])
        errors.append((rough - exact).abs().amax((1, 2)) / exact.abs().amax((1, 2)))
    assert len(pairs) == NUM_PHOTOS and same_masks(pairs) > 0.95
    assert torch.cat(errors).max() < 0.15


def with_parts(config, passes: int):
    return replace(config, grounding=GroundingConfig(passes=passes, ratio=0.5), alignment=AlignmentConfig())


def coupalign():
    recipe, tiny = magnet.recipe("coupalign_tiny"), tiny_config()
    model = replace(recipe.model, vision=tiny.model.vision, language=tiny.model.language)
    own = replace(model.coupalign, num_word_heads=2)
    return replace(tiny, model=replace(model, coupalign=own), losses=recipe.losses)


def step(config, quick: bool):
    """Loss and gradients of one step, both in float32."""
    torch.manual_seed(0)
    objective, batch = Objective(config).train(), random_batch(config, 4)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=quick):
        terms, _ = objective(batch)
    total = losses.weighted_sum(objective.weights, terms)
    total.backward()
    gradients = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    assert {x.dtype for x in (total, *gradients.values())} == {torch.float32}
    return total.item(), torch.cat([gradient.flatten() for gradient in gradients.values()])


CONFIGS = {
    "lavt": tiny_config(), "magnet": tiny_magnet(), "magnet, one pass": with_parts(tiny_magnet(), 1),
    "magnet, two passes": with_parts(tiny_magnet(), 2), "coupalign": coupalign(),
}  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_step_goes_where_it_goes_in_float32(config):
    (exact, there), (rough, here) = (step(config, quick) for quick in (False, True))
    assert rough == pytest.approx(exact, rel=2e-3)
    assert torch.cosine_similarity(here, there, dim=0) > 0.99
    assert (here.norm() / there.norm()).item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("norm", ["instance", "layer"])
@torch.no_grad()
def test_words_that_are_nearly_alike_are_told_apart(norm):
    """What pixels read of them differs little; the norm behind it makes the difference large."""
    torch.manual_seed(0)
    module = PixelWordAttention(16, 8, norm)
    words = torch.randn(1, 1, 8) + 0.01 * torch.randn(2, 5, 8)
    pixels, mask = torch.randn(2, 16, 6, 6), torch.ones(2, 5)
    exact = module(pixels, words, mask)
    with torch.autocast("cpu", torch.bfloat16):
        rough = module(pixels, words, mask)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().max() < 0.03 * exact.abs().max()


class Casts(TorchDispatchMode):
    """How often each of some tensors becomes bfloat16, by where it lies."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ == "_to_copy" and result.dtype == torch.bfloat16:
            self.counts[args[0].data_ptr()] += 1
        return result


def test_evaluation_makes_weights_bfloat16_once(monkeypatch):
    """Not for each batch; but for parts of a weight, of which there are few."""
    predictor = magnet.load("refshapes-tiny")
    monkeypatch.setattr(magnet, "load", lambda name: predictor)
    with Casts() as casts:
        scored("refshapes-tiny", "bfloat16", num=6, batch_size=2)
    sizes = [(casts.counts[p.data_ptr()], p.numel()) for p in predictor.model.parameters()]
    assert sum(times * size for times, size in sizes) < 1.2 * sum(size for times, size in sizes if times)


class Products(TorchDispatchMode):
    """The shapes of all matrix products in bfloat16."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [one for one in args if isinstance(one, torch.Tensor)]
        if function.overloadpacket.__name__ in ("mm", "addmm", "bmm") and tensors[-1].dtype == torch.bfloat16:
            self.shapes.add(tuple(tuple(one.shape) for one in tensors))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("passes", [1, 2])
def test_products_have_the_same_shapes_however_many_words_are_hidden(passes):
    """For each product in bfloat16 a CPU's library keeps most of a megabyte for every shape that it has met."""
    config = replace(tiny_config(), grounding=GroundingConfig(ratio=0.5, passes=passes))
    batch, found, numbers = random_batch(config, 3), [], []
    objective = Objective(config)
    for seed in range(4):
        torch.manual_seed(seed)
        with Products() as products:
            with torch.autocast("cpu", torch.bfloat16):
                terms, statistics = objective(batch)
            losses.weighted_sum(objective.weights, terms).backward()
        found.append(products.shapes)
        numbers.append(statistics["grounding_hidden_tokens"].item())
    assert len(set(numbers)) > 1 and found[0] and all(shapes == found[0] for shapes in found)
