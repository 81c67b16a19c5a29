"""MagNet with its training-only parts: every switch by itself, and whole runs that are stopped, started and scored."""

import os
import signal
from dataclasses import replace
from itertools import product

import pytest
import torch
from conftest import tiny_magnet
from safetensors.torch import load_file

import magnet
from magnet import losses, runs, train
from magnet.config import AlignmentConfig, Config, GroundingConfig
from magnet.data import collate, encode, load_tokenizer, training_set
from magnet.objective import Objective

GROUNDING, ALIGNMENT = GroundingConfig(ratio=0.5, num_layers=1), AlignmentConfig(num_samples=16)
PIXEL_TERMS = ["pixel_pixel", "pixel_text"]


def with_parts(grounding=GROUNDING, alignment=ALIGNMENT, **optim) -> Config:
    return replace(tiny_magnet(**optim), grounding=grounding, alignment=alignment)


def build(config: Config) -> Objective:
    torch.manual_seed(config.seed)
    return Objective(config)


def make_batch(config: Config, num: int = 4) -> dict:
    items = training_set(config.data, config.model.language.vocabulary, seed=0)
    return collate([items[index] for index in range(num)])


# --- switches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fusion, grounding, alignment", list(product(("pwam", "cam"), (None, GROUNDING), (None, ALIGNMENT)))
)
def test_each_switch_does_what_it_says_and_nothing_else(fusion, grounding, alignment):
    config = with_parts(grounding, alignment)
    config = replace(config, model=replace(config.model, fusion=fusion))
    objective, batch = build(config), make_batch(config)
    terms, statistics = objective(batch)
    expected = ["mask_bce", "mask_dice", *["grounding"] * bool(grounding), *PIXEL_TERMS * bool(alignment)]
    assert list(terms) == list(objective.weights) == expected
    switched = {"grounding": grounding, "alignment": alignment}
    assert {name.split("_")[0] for name in statistics} == {part for part, on in switched.items() if on}
    kinds = {name.split(".")[0] for name, _ in objective.named_parameters()}
    assert kinds == {"model", *["grounding"] * bool(grounding), *["alignment"] * bool(alignment)}
    plain = build(replace(config, grounding=None, alignment=None))
    ours, theirs = (network.model.state_dict() for network in (objective, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs), "the same network, parts or not"
    assert {name: terms[name].item() for name in expected[:2]} == {n: t.item() for n, t in plain(batch)[0].items()}
    assert bool(objective.model.text_sides) == (fusion == "cam")
    losses.weighted_sum(objective.weights, terms).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


@pytest.mark.parametrize("fusion", ["pwam", "cam"])
def test_one_pass_learns_from_hidden_words_and_two_passes_from_clean_ones(fusion):
    config = with_parts()
    config = replace(config, model=replace(config.model, fusion=fusion))
    batch, read = make_batch(config), {}
    for passes in (1, 2):
        objective, seen = build(replace(config, grounding=replace(GROUNDING, passes=passes))), []
        objective.model.language.encoder.embeddings.register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0])
        )
        objective(batch)
        read[passes] = [torch.equal(token_ids, batch["token_ids"]) for token_ids in seen]
    assert read == {1: [False], 2: [True, False]}


def test_samples_with_nothing_to_say_cost_nothing():
    """No word to hide, no object, nothing but the object, and fewer pixels than samples, all in one batch."""
    config = with_parts(replace(GROUNDING, ratio=1.0), replace(ALIGNMENT, num_samples=10_000))
    objective, batch = build(config), make_batch(config)
    tokenizer = load_tokenizer("refshapes")
    batch["token_ids"][0], batch["token_mask"][0] = (part[0] for part in encode(tokenizer, [""]))
    batch["masks"][1], batch["masks"][2] = 0, 1
    batch["masks"][3] = 0
    batch["masks"][3, 16:48, 16:48] = 1
    terms, statistics = objective.eval()(batch)
    losses.weighted_sum(objective.weights, terms).backward()
    closed = {id(p) for side in objective.model.text_sides for p in side.parameters()}  # left out in evaluation mode
    assert all(p.grad.isfinite().all() for p in objective.parameters() if id(p) not in closed)
    assert statistics["grounding_nothing_to_hide"] == 0.5 and statistics["grounding_none_hidden"] == 0.0
    assert statistics["grounding_all_hidden"] == 0.5
    contributing = [0, 3] if (batch["masks"][0].sum() > 0) else [3]
    rest = {name: values[contributing] for name, values in batch.items()}
    alone = objective(rest)[0]
    for name in PIXEL_TERMS:
        torch.testing.assert_close(terms[name], alone[name] * len(contributing) / 4, rtol=1e-4, atol=1e-5)


def test_grounding_without_words_is_refused():
    config = with_parts()
    with pytest.raises(ValueError, match=r"data\.words='none' leaves grounding no word"):
        Objective(replace(config, data=replace(config.data, words="none")))


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_a_run_with_all_parts_is_scored_like_any_other(run_root):
    config = with_parts(num_steps=4, val_every=4)
    run = magnet.fit(config, progress=False)
    line = next(line for line in run.log() if "loss" in line)
    assert list(line["raw"]) == ["mask_bce", "mask_dice", "grounding", *PIXEL_TERMS]
    assert line["loss"] == pytest.approx(sum(line["weighted"].values())) and line["grounding_hidden_tokens"] > 0
    assert load_file(run.weights).keys() == magnet.build_model(config.model).state_dict().keys()
    stored = {name.split(".")[0] for name in load_file(run.checkpoint)}
    assert stored == {"model", "grounding", "alignment", "optimizer"}
    table = magnet.evaluate(run, split="val", num_expressions=8, progress=False)
    assert len(table) == 8 and table["iou"].between(0, 1).all()
    predictor = magnet.load(run.folder)
    predictor.set_image(torch.zeros(50, 70, 3, dtype=torch.uint8).numpy())
    assert predictor.predict("the red star")[0].shape == (50, 70)


@pytest.mark.parametrize("passes", [1, 2])
def test_an_interrupted_run_ends_in_the_same_weights(run_root, monkeypatch, passes):
    config = with_parts(replace(GROUNDING, passes=passes), num_steps=6, val_every=6)
    config = replace(config, checkpoint_every=100)  # so that what goes on is what the interrupt saved
    undisturbed = magnet.fit(config, progress=False)
    expected = [load_file(path) for path in (undisturbed.weights, undisturbed.checkpoint)]
    monkeypatch.setattr(runs, "ROOT", run_root.with_name("again"))
    after = train.Trainer._after_step

    def interrupt(self, bar):
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        after(self, bar)

    monkeypatch.setattr(train.Trainer, "_after_step", interrupt)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3 of 6"):
        magnet.fit(config, progress=False)
    monkeypatch.setattr(train.Trainer, "_after_step", after)
    resumed = magnet.fit(config, progress=False)
    assert [line["step"] for line in resumed.log() if "loss" in line] == [1, 2, 3, 4, 5, 6]
    for path, tensors in zip((resumed.weights, resumed.checkpoint), expected):
        again = load_file(path)
        assert again.keys() == tensors.keys() and all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_a_run_with_parts_can_start_from_one_without_and_the_other_way_round(run_root):
    still = {"num_steps": 1, "val_every": 1, "lr": 0.0}
    plain = magnet.fit(tiny_magnet(num_steps=2, val_every=2), progress=False)
    parts = magnet.fit(with_parts(**still), init=plain, progress=False)
    again = magnet.fit(tiny_magnet(**still), init=parts, progress=False)
    first, second, third = (load_file(run.weights) for run in (plain, parts, again))
    assert first.keys() == second.keys() == third.keys()
    assert all(torch.equal(first[name], second[name]) and torch.equal(first[name], third[name]) for name in first)


# --- the recipe's network ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["pwam", "cam"])
@torch.no_grad()
def test_the_tiny_recipe_depends_on_neither_batch_nor_padding(fusion):
    config = magnet.recipe("magnet_tiny")
    torch.manual_seed(0)
    vision = replace(config.model.vision, pretrained=None)
    model = magnet.build_model(replace(config.model, fusion=fusion, vision=vision)).eval()
    for side in model.text_sides:
        torch.nn.init.normal_(side.gate.outer.weight, std=1.0)  # closed at the start: words would not read pixels
    texts = ["the small red star left of the large ring", "the ring", "it"]
    token_ids, token_mask = encode(load_tokenizer("refshapes"), texts, config.data.num_tokens)
    images = torch.randn(3, 3, config.data.image_size, config.data.image_size)
    together = predictions(model(images, token_ids, token_mask))
    for row, length in enumerate(token_mask.sum(1).tolist()):
        one = slice(row, row + 1)
        alone = predictions(model(images[one], token_ids[one], token_mask[one]))
        unpadded = predictions(model(images[one], token_ids[one, :length], token_mask[one, :length]))
        assert (together[:, one] - alone).abs().max() < 1e-3 and (alone - unpadded).abs().max() < 1e-3
    other = predictions(model(images, token_ids.roll(1, 0), token_mask.roll(1, 0)))
    assert (together - other).abs().max() > 1e-2, "another sentence does change the answer"


def predictions(outputs: dict) -> torch.Tensor:
    return torch.stack([*outputs["aux_mask_logits"], outputs["mask_logits"]])
