"""Pixel-word attention and the gate against their formulas, written out pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from magnet.models.attention import LanguageGate, PixelWordAttention, instance_norm, to_map, to_tokens

CHANNELS, WIDTH, NUM_TOKENS = 6, 5, 4


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    token_mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    return torch.randn(2, CHANNELS, 3, 2), torch.randn(2, NUM_TOKENS, WIDTH), token_mask


def as_numpy(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def normalised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def by_formula(module: PixelWordAttention, pixels: np.ndarray, words: np.ndarray, mask: np.ndarray):
    """One image: pixels (N,C), words (T,D), mask (T,) -> attention (N,T), fused (N,C)."""
    query = normalised(as_numpy(module.query, pixels))
    key, value = (as_numpy(layer, words) * mask[:, None] for layer in (module.key, module.value))
    attention = np.empty((len(pixels), len(words)))
    for n in range(len(pixels)):
        scores = [query[n] @ key[t] / math.sqrt(CHANNELS) + 1e4 * mask[t] - 1e4 for t in range(len(words))]
        exponentials = np.exp(np.array(scores) - max(scores))
        attention[n] = exponentials / exponentials.sum()
    gathered = normalised(as_numpy(module.out, attention @ value))
    return attention, gelu(as_numpy(module.mix, gelu(as_numpy(module.pixel, pixels)) * gathered))


@torch.no_grad()
def test_pixel_word_attention_is_its_formula(inputs):
    module = PixelWordAttention(CHANNELS, WIDTH)
    attention, fused = module.attention(*inputs), module(*inputs)
    assert attention.shape == (2, 6, NUM_TOKENS) and fused.shape == inputs[0].shape
    for b in range(2):
        pixels, words, mask = (t[b].double().numpy() for t in inputs)
        expected = by_formula(module, pixels.reshape(CHANNELS, -1).T, words, mask)
        np.testing.assert_allclose(attention[b].numpy(), expected[0], atol=1e-6)
        np.testing.assert_allclose(fused[b].flatten(1).T.numpy(), expected[1], atol=1e-5)


@torch.no_grad()
def test_padding_is_never_read(inputs):
    pixels, words, token_mask = inputs
    module = PixelWordAttention(CHANNELS, WIDTH)
    expected = module(pixels[1:], words[1:, :2], token_mask[1:, :2])
    torch.testing.assert_close(module(pixels, words, token_mask)[1:], expected)
    assert module.attention(pixels, words, token_mask)[1, :, 2:].max() == 0


def test_bfloat16_autocast_stays_near(inputs):
    module = PixelWordAttention(CHANNELS, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        rough = module(*inputs)
    exact = module(*inputs)
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()
    rough.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@torch.no_grad()
def test_instance_norm_is_torchs():
    x = torch.randn(2, 7, 3) * 5 + 2
    torch.testing.assert_close(instance_norm(x), F.instance_norm(x.transpose(1, 2)).transpose(1, 2))
    assert torch.equal(instance_norm(torch.randn(2, 1, 3)), torch.zeros(2, 1, 3))  # a 1x1 map


def test_tokens_and_maps_are_inverse():
    x = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    tokens = to_tokens(x)
    assert torch.equal(tokens[1, 2 * 5 + 3], x[1, :, 2, 3])
    assert torch.equal(to_map(tokens, (4, 5)), x)


@torch.no_grad()
def test_gate_is_its_formula():
    gate, x, fused = LanguageGate(CHANNELS), torch.randn(1, CHANNELS, 2, 2), torch.randn(1, CHANNELS, 2, 2)
    out = gate(x, fused)
    for row, column in [(0, 1), (1, 0)]:
        f = fused[0, :, row, column]
        opened = torch.tanh(gate.outer.weight @ (gate.inner.weight @ f).clamp(min=0))
        torch.testing.assert_close(out[0, :, row, column], x[0, :, row, column] + opened * f)


def test_zero_gate_starts_closed_but_learns():
    gate, x, fused = LanguageGate(CHANNELS, "zero"), torch.randn(1, CHANNELS, 2, 2), torch.randn(1, CHANNELS, 2, 2)
    out = gate(x, fused)
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert gate.outer.weight.grad.abs().max() > 0
    assert LanguageGate(400).outer.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_gate_made_in_inference_mode_says_whether_it_is_closed():
    with torch.inference_mode():
        gate = LanguageGate(4, "zero")
        assert gate.is_closed()
        gate.outer.weight.fill_(1.0)
        assert not gate.is_closed()


def test_instance_norm_without_a_valid_position_is_finite():
    assert instance_norm(torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [0, 0, 0]])).isfinite().all()
