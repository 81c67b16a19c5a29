"""Networks taken apart: what is fresh and what is kept, each prediction by itself, parts that add nothing."""

from dataclasses import replace
from itertools import count

import pytest
import torch
from conftest import tiny_config

import magnet
from magnet import runs
from magnet.workbench.surgery import load_weights, score_predictions, switched_off, with_fresh_parts

SIDES = ("image_sides", "text_sides", "gates")


@pytest.fixture(scope="module")
def config():
    tiny = tiny_config(num_steps=2, val_every=2)
    small = {"decoder_width": 8, "num_heads": 2, "num_points": 1, "decoder_layers": 2}
    layers = {"pixel_decoder_layers": 1, "pixel_decoder_feedforward": 8, "decoder_feedforward": 8}
    model = replace(tiny.model, method="magnet", fusion="cam", **small, **layers)
    return replace(tiny, recipe="surgery", model=model, losses={"mask_bce": 1.0})


@pytest.fixture
def run(config, run_root):
    """A run whose weights are another seed's random ones."""
    made = runs.open_run(replace(config, seed=5))
    torch.manual_seed(5)
    tensors = magnet.build_model(config.model).state_dict()
    from safetensors.torch import save_file

    save_file(tensors, made.weights)
    return made


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    token_mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    images = torch.randn(2, 3, 32, 32, generator=generator)
    return images, torch.randint(1, 30, (2, 4), generator=generator), token_mask


def test_only_the_named_parts_are_fresh(run, config):
    start = runs.read_tensors(with_fresh_parts(run, config, SIDES))
    torch.manual_seed(config.seed)
    random, trained = magnet.build_model(config.model).state_dict(), runs.read_tensors(run.weights)
    for name, tensor in start.items():
        assert torch.equal(tensor, random[name] if name.startswith(SIDES) else trained[name]), name
    assert any(not torch.equal(start[name], trained[name]) for name in start if name.startswith(SIDES))


def test_the_same_start_is_the_same_file(run, config):
    """So that training from it finds its finished run again; and the notebook's own random numbers stay."""
    torch.manual_seed(1)
    first = with_fresh_parts(run, config, SIDES)
    drawn, content = torch.rand(2), first.read_bytes()
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), drawn)
    assert with_fresh_parts(run, config, SIDES).read_bytes() == content
    assert with_fresh_parts(run, replace(config, seed=1), SIDES) != first


def test_a_start_fits_another_fusion_and_trains_frozen(run, config):
    optim = replace(config.optim, frozen=("^(vision|language|pixel_decoder|query_decoder)",))
    plain = replace(config, model=replace(config.model, fusion="pwam"), optim=optim)
    start = with_fresh_parts(run, plain, SIDES)
    before = runs.read_tensors(start)
    after = magnet.fit(plain, init=start, progress=False).load_model().state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"image_sides", "gates"}
    assert not load_weights(start, plain).training


def test_what_does_not_fit_is_named(run, config):
    wider = replace(config, model=replace(config.model, decoder_width=16))
    with pytest.raises(ValueError, match=r"pixel_decoder\S+.* of this configuration's shape; name their parts"):
        with_fresh_parts(run, wider, SIDES)


def test_every_prediction_is_scored_and_the_last_is_the_networks_own(run, config):
    model = run.load_model()
    tables = score_predictions(model, config, 6)
    assert len(tables) == config.model.decoder_layers + 1
    assert tables[-1].equals(magnet.evaluate(model, config=config, num_expressions=6, progress=False))
    calls = count()

    def predict(query, mask_features, detail=None):
        """In turn: nothing, everything, everything."""
        marked = next(calls) % 3 > 0
        return torch.full_like(mask_features[:, 0], 1.0 if marked else -1.0)

    model.query_decoder.predict = predict
    nothing, *everything = (table["I"].sum() for table in score_predictions(model, config, 6))
    assert nothing == 0 and len(set(everything)) == 1 and everything[0] > 0


@torch.no_grad()
def test_switched_off_gates_leave_the_backbones_to_themselves(run, inputs):
    model = run.load_model()
    for gate in [*model.gates, *(side.gate for side in model.text_sides)]:
        torch.nn.init.normal_(gate.outer.weight)
        torch.nn.init.normal_(gate.inner.weight)
    usual, words = model(*inputs)["mask_logits"], model.language(*inputs[1:])
    with switched_off(model, r"text_sides\.\d"):
        torch.testing.assert_close(model.encode(*inputs)["word_features"], words)
    assert not torch.allclose(model.encode(*inputs)["word_features"], words, atol=1e-3)
    with switched_off(model, r"gates\.\d"):
        seen, x = [], model.vision.stem(inputs[0])
        hook = model.image_sides[-1].register_forward_hook(lambda module, given, out: seen.append(given[0]))
        model.encode(*inputs)
        hook.remove()
        for stage in range(4):
            x = model.vision.stage(stage, x)
        torch.testing.assert_close(seen[0], x)
    assert torch.equal(model(*inputs)["mask_logits"], usual)  # as it was


@torch.no_grad()
def test_switched_off_attention_reads_zeros(run, inputs):
    model = run.load_model()
    changed = inputs[1].flip(1)
    with switched_off(model, r"image_sides\.\d\.(full|pooled\.\d)"):
        one, other = (model(inputs[0], ids, inputs[2])["mask_logits"] for ids in (inputs[1], changed))
        assert torch.equal(one, other)  # without a reading there are no words
    assert not torch.equal(model(inputs[0], changed, inputs[2])["mask_logits"], one)


def test_no_such_part_is_said(run):
    with (
        pytest.raises(ValueError, match=r"no part of MagNet is called 'fusions"),
        switched_off(run.load_model(), r"fusions\.\d"),
    ):
        pass
