"""The alignment module against its formulas, written out pixel by pixel and word by word."""

import math

import numpy as np
import pytest
import torch

from magnet.models.attention import PixelWordAttention, instance_norm, to_tokens
from magnet.models.cam import CAMImageSide, CAMTextSide
from magnet.models.pwam import PWAMImageSide, matched_image_side, matched_text_side, num_parameters

CHANNELS, WIDTH, NUM_TOKENS = 8, 6, 4


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    token_mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    return torch.randn(2, CHANNELS, 3, 4), torch.randn(2, NUM_TOKENS, WIDTH), token_mask


def linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    y = x @ layer.weight.detach().double().numpy().T
    return y if layer.bias is None else y + layer.bias.detach().double().numpy()


def layer_norm(layer: torch.nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scale, shift = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
    return centred / np.sqrt(x.var(-1, keepdims=True) + layer.eps) * scale + shift


def over_positions(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(scores: list[float]) -> np.ndarray:
    exponentials = np.exp(np.array(scores) - max(scores))
    return exponentials / exponentials.sum()


def pixel_word_attention(module: PixelWordAttention, pixels: np.ndarray, words: np.ndarray, mask: np.ndarray):
    """One image in MagNet's form: pixels (N,C), words (T,D), mask (T,) -> fused (N,C)."""
    query = layer_norm(module.query_norm, linear(module.query, pixels))
    key, value = (linear(layer, words) * mask[:, None] for layer in (module.key, module.value))
    width = key.shape[1]
    read = np.stack([
        softmax([q @ key[t] / math.sqrt(width) + 1e4 * mask[t] - 1e4 for t in range(len(words))]) @ value for q in query
    ])  # fmt: skip
    gathered = layer_norm(module.out_norm, linear(module.out, read))
    return gelu(linear(module.mix, gelu(linear(module.pixel, pixels)) * gathered))


def pooled(pixels: np.ndarray, size: int) -> np.ndarray:
    """(C,H,W) -> (size·size,C): means over cells that cover the map, overlapping where it does not divide."""
    rows, columns = (
        [slice(i * n // size, -(-(i + 1) * n // size)) for i in range(size)] for n in pixels.shape[1:]
    )  # fmt: skip
    return np.stack([pixels[:, r, c].mean((1, 2)) for r in rows for c in columns])


def enlarged(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """(p,p,C) -> (H·W,C), bilinear with corners kept in place."""
    size = len(values)
    out = np.empty((height, width, values.shape[-1]))
    for i in range(height):
        for j in range(width):
            y, x = i * (size - 1) / (height - 1), j * (size - 1) / (width - 1)
            top, left = int(y), int(x)
            bottom, right, fy, fx = min(top + 1, size - 1), min(left + 1, size - 1), y - int(y), x - int(x)
            upper = (1 - fx) * values[top, left] + fx * values[top, right]
            out[i, j] = (1 - fy) * upper + fy * ((1 - fx) * values[bottom, left] + fx * values[bottom, right])
    return out.reshape(height * width, -1)


@torch.no_grad()
def test_image_side_is_its_formula(inputs):
    module = CAMImageSide(CHANNELS, WIDTH, (1, 2, 3, 6))  # 6 is more than the map has
    fused, features = module(*inputs)
    for b in range(2):
        pixels, words, mask = (t[b].double().numpy() for t in inputs)
        tokens = pixels.reshape(CHANNELS, -1).T
        parts = []
        for size, reduce, attention in zip((1, 2, 3, 6), module.reduce, module.pooled):
            x = layer_norm(reduce[1], linear(reduce[0], pooled(pixels, size)))
            x = linear(reduce[4], gelu(linear(reduce[2], x)))
            x = pixel_word_attention(attention, x, words, mask)
            parts.append(enlarged(x.reshape(size, size, -1), 3, 4))
        full = pixel_word_attention(module.full, tokens, words, mask)
        x = linear(module.mixer[0], np.concatenate([*parts, full], axis=1))
        expected = gelu(linear(module.mixer[2], layer_norm(module.mixer[1], x)))
        np.testing.assert_allclose(to_tokens(fused)[b].numpy(), full, atol=1e-5)
        np.testing.assert_allclose(to_tokens(features)[b].numpy(), expected, atol=1e-5)


def text_side(module: CAMTextSide, words: np.ndarray, pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One image: words (T,D), pixels (N,C), mask (T,) as the form has it -> changed words (T,D)."""
    query = linear(module.query, words) * mask[:, None]
    key, value = (over_positions(linear(layer, pixels)) for layer in (module.key, module.value))
    read = np.stack([softmax([q @ k / math.sqrt(WIDTH) for k in key]) @ value for q in query])
    gathered = over_positions(linear(module.out, read))
    fused = gelu(linear(module.mix, gelu(linear(module.word, words)) * gathered))
    gate = np.tanh(linear(module.gate.outer, np.maximum(linear(module.gate.inner, fused), 0)))
    return words + gate * fused


def opened(form: str) -> CAMTextSide:
    module = CAMTextSide(CHANNELS, WIDTH, form)
    for matrix in (module.gate.inner, module.gate.outer):
        torch.nn.init.normal_(matrix.weight)
    return module


@torch.no_grad()
def test_live_text_side_is_its_formula_on_the_valid_words(inputs):
    module, (pixels, words, token_mask) = opened("live"), inputs
    changed = module(words, pixels, token_mask)
    for b, length in enumerate((4, 2)):
        w, p = words[b, :length].double().numpy(), to_tokens(pixels)[b].double().numpy()
        np.testing.assert_allclose(changed[b, :length], text_side(module, w, p, np.ones(length)), atol=1e-5)


@torch.no_grad()
def test_released_text_side_is_its_formula_with_the_additive_mask(inputs):
    """Without padding, that is: padding's scores are rounded to multiples of 8 there."""
    module, (pixels, words, token_mask) = opened("released"), inputs
    changed = module(words, pixels, token_mask)
    w, p = words[0].double().numpy(), to_tokens(pixels)[0].double().numpy()
    np.testing.assert_allclose(changed[0], text_side(module, w, p, np.zeros(4)), atol=1e-5)
    attention = module.attention(words, pixels, token_mask)
    torch.testing.assert_close(attention[:, :2], torch.full((2, 2, 12), 1 / 12))  # valid words read the mean pixel
    assert attention[1, 2:].max() > 0.5  # padding does not


@torch.no_grad()
def test_padding_changes_no_word_in_the_live_form(inputs):
    module, (pixels, words, token_mask) = opened("live"), inputs
    alone = module(words[1:, :2], pixels[1:], token_mask[1:, :2])
    torch.testing.assert_close(module(words, pixels, token_mask)[1:, :2], alone)
    assert torch.equal(module(words[:, :1], pixels, token_mask[:, :1]).isfinite().all(), torch.tensor(True))


def test_the_live_gate_starts_closed_but_learns_and_the_released_one_is_dead(inputs):
    pixels, words, token_mask = inputs
    for form in ("live", "released"):
        module = CAMTextSide(CHANNELS, WIDTH, form)
        changed = module(words, pixels, token_mask)
        assert torch.equal(changed, words)
        (changed * torch.randn_like(words)).sum().backward()
        assert bool(module.gate.outer.weight.grad.any()) == (form == "live")
        others = [p.grad for name, p in module.named_parameters() if name != "gate.outer.weight"]
        assert not any(grad.any() for grad in others)


@pytest.mark.parametrize("fused", [False, True])  # of what the latter changes torch keeps no account
def test_a_gate_that_was_closed_when_it_was_asked_opens_in_training(inputs, fused):
    pixels, words, token_mask = inputs
    module = CAMTextSide(CHANNELS, WIDTH)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=fused)
    assert torch.equal(module.eval()(words, pixels, token_mask), words)
    (module.train()(words, pixels, token_mask) * torch.randn_like(words)).sum().backward()
    optimizer.step()
    assert not torch.allclose(module.eval()(words, pixels, token_mask), words)


@torch.no_grad()
def test_instance_norm_counts_only_what_the_mask_says():
    x, mask = torch.randn(2, 5, 3), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    normed = instance_norm(x, mask)
    torch.testing.assert_close(normed[:1, :3], instance_norm(x[:1, :3]))
    torch.testing.assert_close(normed[1:], instance_norm(x[1:]))


@pytest.mark.parametrize("channels", [32, 128])
def test_controls_have_as_many_parameters_and_start_as_plain_fusion(channels):
    target = num_parameters(CAMImageSide(channels, 64, (1, 2, 3, 6)))
    control = matched_image_side(channels, 64, (1, 2, 3, 6))
    assert abs(num_parameters(control) - target) <= channels + 1
    plain = PWAMImageSide(channels, 64)
    plain.load_state_dict({k: v for k, v in control.state_dict().items() if not k.startswith("mlp")})
    pixels, words, token_mask = torch.randn(2, channels, 3, 4), torch.randn(2, 5, 64), torch.ones(2, 5)
    assert all(map(torch.equal, control(pixels, words, token_mask), plain(pixels, words, token_mask)))
    blind = matched_text_side(channels, 64)
    assert abs(num_parameters(blind) - num_parameters(CAMTextSide(channels, 64))) <= 65
    assert torch.equal(blind(words, pixels, token_mask), words)
