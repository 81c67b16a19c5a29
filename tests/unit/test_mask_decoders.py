"""Pixel and query decoder: deformable attention number by number, the query decoder against its layers by hand."""

import itertools
import math
import subprocess
import sys

import numba
import pytest
import torch
from torch.nn import functional as F

from magnet.models import scale_loops
from magnet.models.pixel_decoder import DeformableAttention, PixelDecoder, pixel_centres
from magnet.models.positions import sine_position
from magnet.models.query_decoder import QueryDecoder, blocked_pixels
from magnet.models.scale_loops import _compiled, by_loops
from magnet.models.scale_reading import by_grid, read_scales

SIZES = [(2, 3), (4, 5), (7, 9)]
NUM_TOKENS = sum(height * width for height, width in SIZES)
HEADS, DEPTH, POINTS = 2, 4, 3


def one_by_one(value, sizes, position, weights):
    """The same reading, one number after another: the four pixels around a point, those outside are zero."""
    rows = []
    for b, q, head in itertools.product(*map(range, position.shape[:3])):
        row, start = torch.zeros(value.shape[-1]), 0
        for scale, (height, width) in enumerate(sizes):
            for (x, y), share in zip(position[b, q, head, scale], weights[b, q, head, scale]):
                left, top = math.floor(x.item()), math.floor(y.item())
                for column, line in itertools.product((left, left + 1), (top, top + 1)):
                    if 0 <= column < width and 0 <= line < height:
                        pixel = value[b, start + line * width + column, head]
                        row = row + share * (1 - (x - column).abs()) * (1 - (y - line).abs()) * pixel
            start += height * width
        rows.append(row)
    return torch.stack(rows).view(*position.shape[:3], -1)


@pytest.fixture
def readings():
    """Positions inside, between pixels, on pixels, on the border and far outside."""
    torch.manual_seed(0)
    position = 14 * torch.rand(2, 11, HEADS, len(SIZES), POINTS, 2) - 3
    position[0, 0], position[0, 1], position[0, 2], position[0, 3] = 1.0, -1.0, 1e6, -0.5
    weights = torch.rand(2, 11, HEADS, len(SIZES), POINTS)
    return torch.randn(2, NUM_TOKENS, HEADS, DEPTH), position, weights


@pytest.mark.parametrize("way", [by_grid, by_loops])
def test_reading_scales_one_by_one(readings, way):
    value, position, weights = readings
    expected = one_by_one(value, SIZES, position, weights)
    torch.testing.assert_close(way(value, SIZES, position, weights), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", [by_grid, by_loops])
def test_gradients_of_reading_one_by_one(readings, way):
    direction, gradients = torch.randn(2, 11, HEADS, DEPTH), []
    for function in (way, one_by_one):
        value, position, weights = (t.clone().requires_grad_() for t in readings)
        (function(value, SIZES, position, weights) * direction).sum().backward()
        gradients.append([value.grad, weights.grad, position.grad[:, 4:]])  # on a pixel there are two slopes
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_more_queries_than_are_looked_up_at_once(readings):
    value, position, weights = readings
    position, weights = (t.repeat_interleave(7, dim=1) for t in (position, weights))  # 77 queries
    read = by_loops(value, SIZES, position, weights)
    assert torch.equal(read, by_loops(value, SIZES, *readings[1:]).repeat_interleave(7, dim=1))
    torch.testing.assert_close(read, by_grid(value, SIZES, position, weights), rtol=1e-4, atol=1e-5)


def test_values_in_bfloat16_are_read_as_the_numbers_that_they_are(readings):
    value, results = readings[0].bfloat16(), []
    for way, given in ((by_loops, value), (by_loops, value.float()), (by_grid, value)):
        leaves = [t.clone().requires_grad_() for t in (given, *readings[1:])]
        read = way(leaves[0], SIZES, *leaves[1:])
        results.append([read, *torch.autograd.grad(read.square().sum(), leaves)])
    assert results[0][1].dtype == torch.bfloat16 and results[0][0].dtype == torch.float32
    rough, exact, plain = results
    torch.testing.assert_close([rough[0], *rough[2:]], [exact[0], *exact[2:]], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(rough[1].float(), exact[1], rtol=2**-7, atol=1e-3)  # rounded at the end
    torch.testing.assert_close(exact[0], plain[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", [by_grid, by_loops])
def test_positions_that_are_no_numbers_give_none(readings, way):
    """So who asked for a mask is told that its logits are not finite."""
    value, position, weights = readings
    position[1, 5, 0, 1, 2, 0] = torch.nan
    read = way(value, SIZES, position, weights)
    assert read[1, 5, 0].isnan().all() and read.isnan().any(-1).sum() == 1


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_the_way_back_from_any_position_stays_within_its_arrays(readings, number):
    value, position, weights = readings
    position[1, 5, 0, 1, 2, 0] = number
    leaves = [t.clone().requires_grad_() for t in (value, position, weights)]
    gradients = torch.autograd.grad(by_loops(leaves[0], SIZES, *leaves[1:]).sum(), leaves)
    if math.isnan(number):  # its four pixels share the top left corner of the border, where one is of the map
        assert gradients[0].isnan().sum() <= DEPTH and gradients[2].isnan().sum() == 1
    else:
        expected = [t.clone().requires_grad_() for t in (value, position.clamp(-1e6, 1e6), weights)]
        there = torch.autograd.grad(by_grid(expected[0], SIZES, *expected[1:]).sum(), expected)
        torch.testing.assert_close(gradients[0], there[0], rtol=1e-4, atol=1e-4)
        assert gradients[1][1, 5, 0, 1, 2].tolist() == [0, 0] and gradients[2][1, 5, 0, 1, 2] == 0


@pytest.mark.parametrize(
    ("x", "slope"),
    [(-1.001, 0), (-1.0, 5), (-0.5, 5), (0.0, -5), (0.5, -5), (1.0, 0), (1e30, 0), (-math.inf, 0), (math.inf, 0)],
)
def test_slopes_along_a_map_of_one_pixel_by_hand(x, slope):
    """From the border's zero up to the pixel's 5 at 0, and down to zero at 1; on a bend, the slope to its right."""
    position = torch.tensor([x, 0.0]).view(1, 1, 1, 1, 1, 2).requires_grad_()
    read = by_loops(torch.full((1, 1, 1, 1), 5.0), [(1, 1)], position, torch.ones(1, 1, 1, 1, 1))
    assert read.item() == pytest.approx(max(0, 5 - 5 * abs(x)), abs=1e-6)
    read.backward()
    assert position.grad[..., 0].item() == slope


def test_shapes_that_do_not_go_together_are_no_reading(readings):
    """The loops ask nothing: they would read, and on the way back write, outside."""
    value, position, weights = readings
    wrong = [
        (value[:1], SIZES, position, weights), (value[:, :-1], SIZES, position, weights),
        (value[:, :, :1], SIZES, position, weights), (value[:, :6], SIZES[:1], position, weights),
        (value, SIZES, position[:, :-1], weights), (value, SIZES, position, weights[..., :2]),
    ]  # fmt: skip
    for given in wrong:
        with pytest.raises(ValueError, match="do not go together"):
            by_loops(*given)


def test_reading_what_lies_strewn_in_memory_for_some_gradients_alone(readings):
    value, position, weights = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in readings)
    position, expected = position[:1].expand(2, *position.shape[1:]), []
    for way in (by_loops, by_grid):
        leaf = value.clone(memory_format=torch.preserve_format).requires_grad_()
        read = way(leaf, SIZES, position, weights)
        expected.append((read, *torch.autograd.grad(read[..., ::2].sum(), [leaf])))
    torch.testing.assert_close(*expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images, queries", [(2, 0), (0, 5)])
def test_nothing_asked_is_nothing_read(images, queries):
    value = torch.randn(images, NUM_TOKENS, HEADS, DEPTH, requires_grad=True)
    shape = (images, queries, HEADS, len(SIZES), POINTS)
    read = by_loops(value, SIZES, torch.zeros(*shape, 2), torch.zeros(shape))
    assert read.shape == (images, queries, HEADS, DEPTH)
    read.sum().backward()
    assert not value.grad.any()


def test_compiled_by_torch_the_layer_computes_the_same():
    torch.manual_seed(0)
    sizes = [(2, 3), (4, 5), (25, 25)]  # many queries
    module, tokens = DeformableAttention(HEADS * DEPTH, HEADS, len(sizes), POINTS), torch.randn(1, 651, HEADS * DEPTH)
    torch.nn.init.normal_(module.offsets.bias)  # at first all points lie on pixels, where there are two slopes
    results = []
    for layer in (module, torch.compile(module, backend="aot_eager")):
        leaf = tokens.clone().requires_grad_()
        read = layer(leaf, leaf, sizes)
        results.append([read, *torch.autograd.grad(read.square().sum(), [leaf, *module.parameters()])])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 3, 7])
@pytest.mark.parametrize("positions", [1, 40])
def test_any_number_of_threads_and_jobs_reads_the_same(readings, monkeypatch, threads, positions):
    """Two images of two heads: shares that are uneven, and more threads than there is to share."""
    results = []
    for count in (2, threads):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        monkeypatch.setattr(scale_loops, "_POSITIONS", positions if results else scale_loops._POSITIONS)
        leaves = [t.clone().requires_grad_() for t in readings]
        read = by_loops(leaves[0], SIZES, *leaves[1:])
        results.append([read, *torch.autograd.grad(read.square().sum(), leaves)])
    assert all(map(torch.equal, *results))


def test_loops_are_for_many_queries_and_few_bring_no_compiler(readings, monkeypatch):
    value, position, weights = readings
    monkeypatch.setattr(scale_loops, "by_loops", lambda *given: "loops")
    many = position[:, :1].expand(-1, 513, *position.shape[2:]), weights[:, :1].expand(-1, 513, *weights.shape[2:])
    assert read_scales(value, SIZES, *many) == "loops"
    few = read_scales(value, SIZES, position, weights)
    torch.testing.assert_close(few, by_grid(value, SIZES, position, weights))
    code = "import sys, magnet.models.pixel_decoder; print('numba' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.split() == ["False"]


def test_loops_compile_where_there_is_no_folder_to_keep_them_in():
    namespace = {}
    exec("def twice(x): return 2 * x", namespace)  # of no file, so Numba knows no folder for it
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(namespace["twice"])
    assert _compiled(namespace["twice"])(21) == 42


@torch.no_grad()
def test_deformable_attention_reads_around_each_pixel():
    """With equal weights, no offsets and identity maps, each pixel gets the mean of what lies at its place."""
    module = DeformableAttention(HEADS * DEPTH, HEADS, len(SIZES), POINTS)
    for parameter in module.parameters():
        parameter.zero_()
    for matrix in (module.value, module.out):
        matrix.weight.copy_(torch.eye(HEADS * DEPTH))
    tokens = torch.randn(1, NUM_TOKENS, HEADS * DEPTH)
    centres = pixel_centres(SIZES, tokens.device)
    assert centres[6 + 5 + 2].tolist() == pytest.approx([2.5 / 5, 1.5 / 4])  # second map, row 1, column 2
    maps = [t.transpose(1, 2).unflatten(2, size) for t, size in zip(tokens.split([6, 20, 63], dim=1), SIZES)]
    grid = (2 * centres - 1)[None, None]
    expected = sum(F.grid_sample(x, grid, align_corners=False)[0, :, 0].T for x in maps) / 3
    torch.testing.assert_close(module(tokens, tokens, SIZES)[0], expected, rtol=1e-4, atol=1e-5)


def test_heads_start_in_directions_of_their_own():
    module = DeformableAttention(16, 4, 3, 2)
    star = module.offsets.bias.view(4, 3, 2, 2)
    assert torch.allclose(star[:, 0, 0], torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]), atol=1e-6)
    assert torch.allclose(star[:, :, 1], 2 * star[:, :, 0])


@torch.no_grad()
def test_sine_position_by_formula():
    sine = sine_position(torch.zeros(1, 8, 3, 5))[0]
    for row, column in [(0, 0), (2, 3)]:
        for half, place in enumerate(((row + 1) / (3 + 1e-6), (column + 1) / (5 + 1e-6))):
            for k in range(2):
                angle = place * 2 * math.pi / 10_000 ** (2 * k / 4)
                expected = [math.sin(angle), math.cos(angle)]
                assert sine[4 * half + 2 * k : 4 * half + 2 * k + 2, row, column].tolist() == pytest.approx(
                    expected, abs=1e-5
                )


@torch.no_grad()
def test_pixel_decoder_keeps_sizes_and_mixes_scales():
    decoder = PixelDecoder([4, 6, 8], 16, num_layers=1, num_heads=4, num_points=2, feedforward=8)
    maps = [torch.randn(2, c, *size) for c, size in zip((4, 6, 8), reversed(SIZES))]
    out, mask_features = decoder(maps)
    assert [tuple(x.shape[-2:]) for x in out] == SIZES and mask_features.shape == (2, 16, 7, 9)
    changed = decoder([maps[0], maps[1], maps[2].flip(-1)])[1]
    assert (changed - mask_features).abs().max() > 1e-3  # the finest scale has read the coarsest


def test_what_is_blocked():
    logits = torch.tensor([[[4.0, 4, -4, -4]] * 2, [[-1.0] * 4] * 2, [[1.0] * 4] * 2])
    assert blocked_pixels(logits, (1, 2)).tolist() == [[False, True], [False, False], [False, False]]
    edge = torch.tensor([[[0.0, -1e-3, 1e-3, 0.0]]])
    assert blocked_pixels(edge, (1, 4)).tolist() == [[False, True, False, False]]  # 0 is probability a half: allowed


def by_hand(attention: torch.nn.MultiheadAttention, query, key, value, blocked):
    """One image, one query (D), keys and values (N,D), blocked (N)."""
    width, heads = len(query), attention.num_heads
    q, k, v = (
        x @ w.T + b
        for x, w, b in zip((query, key, value), attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3))
    )
    read = []
    for part in torch.arange(width).chunk(heads):
        scores = (k[:, part] @ q[part] / math.sqrt(width // heads)).masked_fill(blocked, float("-inf"))
        read.append(scores.softmax(0) @ v[:, part])
    return attention.out_proj(torch.cat(read))


@torch.no_grad()
def test_query_decoder_by_hand():
    torch.manual_seed(0)
    decoder = QueryDecoder(8, num_scales=2, num_layers=3, num_heads=2, feedforward=16)
    for name, parameter in decoder.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(parameter)
    maps, mask_features = [torch.randn(2, 8, 2, 3), torch.randn(2, 8, 4, 5)], torch.randn(2, 8, 6, 7)
    predictions, last = decoder(maps, mask_features)
    assert len(predictions) == 4
    for b in range(2):
        query = decoder.query[0]
        for index, layer in enumerate(decoder.layers):
            embedding = decoder.mask_embedding(decoder.norm(query))
            logits = torch.einsum("c,chw->hw", embedding, mask_features[b])
            torch.testing.assert_close(predictions[index][b], logits, rtol=1e-4, atol=1e-5)
            scale = index % 2
            x, size = maps[scale][b], maps[scale].shape[-2:]
            blocked = F.interpolate(logits[None, None], size=size, mode="bilinear").flatten().sigmoid() < 0.5
            blocked = blocked if not blocked.all() else torch.zeros_like(blocked)
            value = x.flatten(1).T + decoder.scale_embedding[scale]
            key = value + sine_position(x[None])[0].flatten(1).T
            position = decoder.query_position[0]
            read = by_hand(layer.cross_attention, query + position, key, value, blocked)
            query = layer.cross_norm(query + read)
            open_ = torch.zeros(1, dtype=torch.bool)
            placed = query + position
            read = by_hand(layer.self_attention, placed, placed[None], query[None], open_)
            query = layer.self_norm(query + read)
            query = layer.feedforward_norm(query + layer.feedforward(query))
        logits = torch.einsum("c,chw->hw", decoder.mask_embedding(decoder.norm(query)), mask_features[b])
        torch.testing.assert_close(predictions[3][b], logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(last[b, 0], decoder.norm(query), rtol=1e-4, atol=1e-5)
