"""Sentences that mean nothing, or several objects: drawn, read, withheld, scored by gRefCOCO's rules, trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_config, tiny_magnet
from torch.nn import functional as F

import magnet
from magnet import losses
from magnet.data import collate, load_tokenizer, read_refer
from magnet.models.no_target import AREA, withhold
from magnet.objective import Objective
from magnet.refshapes.fresh import FreshShapes
from magnet.refshapes.write import write_refshapes


def magnet_with(rule: str):
    config = tiny_magnet()
    terms = config.losses | ({"no_target": 1.0} if rule == "head" else {})
    return replace(config, model=replace(config.model, no_target=rule), losses=terms)


def inputs(num: int = 3):
    torch.manual_seed(0)
    return torch.randn(num, 3, 64, 64), torch.randint(5, 40, (num, 6)), torch.ones(num, 6, dtype=torch.long)


# --- what is withheld -------------------------------------------------------------------------------------------------


def test_fewer_than_fifty_pixels_of_480_mean_nothing():
    logits = torch.full((3, 480, 480), -1.0)
    logits[1].view(-1)[:49] = logits[2].view(-1)[:50] = 1.0
    withheld = withhold({"mask_logits": logits}, "area")["mask_logits"]
    assert withheld.gt(0).sum((1, 2)).tolist() == [0, 0, 50] and AREA * 480**2 == 50
    assert withhold({"mask_logits": logits}, "none")["mask_logits"] is logits


def test_the_head_alone_decides():
    outputs = {"mask_logits": torch.ones(2, 4, 4), "target_logit": torch.tensor([0.1, -0.1])}
    assert withhold(outputs, "head")["mask_logits"].gt(0).sum((1, 2)).tolist() == [16, 0]


@torch.no_grad()
def test_training_sees_the_mask_that_evaluation_withholds():
    model = magnet.build_model(magnet_with("head").model)
    model.target.bias.fill_(-100.0)
    assert model.train()(*inputs())["mask_logits"].gt(-10).any()
    assert model.eval()(*inputs())["mask_logits"].eq(-10).all()
    model.target.bias.fill_(100.0)
    plain = magnet.build_model(magnet_with("none").model)
    plain.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "target" not in name})
    assert torch.equal(model(*inputs())["mask_logits"], plain.eval()(*inputs())["mask_logits"])


def test_the_loss_is_binary_cross_entropy_over_sentences():
    outputs, masks = {"target_logit": torch.tensor([2.0, -1.0])}, torch.zeros(2, 8, 8)
    masks[0, 3, 3] = 1
    expected = F.softplus(torch.tensor([-2.0, -1.0])).mean()  # -log σ(2) and -log(1 - σ(-1))
    torch.testing.assert_close(losses.compute({"no_target": 1.0}, outputs, {"masks": masks})["no_target"], expected)


def test_settings_that_do_not_go_together():
    with pytest.raises(ValueError, match="no_target='maybe' is not one of none, area, head"):
        magnet.build_model(magnet_with("maybe").model)
    with pytest.raises(ValueError, match="needs MagNet's query; with LAVT take 'area'"):
        magnet.build_model(replace(tiny_config().model, no_target="head"))
    for rule, terms in (("head", {"mask_bce": 1.0}), ("none", {"mask_bce": 1.0, "no_target": 1.0})):
        with pytest.raises(ValueError, match="the head and the loss `no_target` go together"):
            Objective(replace(magnet_with(rule), losses=terms))


# --- RefShapes --------------------------------------------------------------------------------------------------------


def fresh(**data):
    settings = replace(magnet.recipe("magnet_tiny").data, image_size=64, easy_first=0, **data)
    return FreshShapes(settings, load_tokenizer("refshapes"), seed=0)


def test_fresh_scenes_are_spoken_of_as_the_shares_say():
    plain, mixed, sorts = fresh(), fresh(no_target_share=0.25, multi_target_share=0.25), []
    for number in range(120):
        scene = mixed.scene(number)
        (sort,) = {min(2, len(one.targets)) for one in scene.expressions}  # all of a scene's sentences are of one sort
        sorts.append(sort)
        if sort == 1:
            assert scene.expressions == plain.scene(number).expressions
        for mask, one in zip(mixed[number]["mask"].numpy().astype(bool), scene.expressions):
            expected = np.zeros_like(mask)
            for k in one.targets:
                expected |= scene.masks[k]
            assert np.array_equal(mask, expected)
    share = np.bincount(sorts, minlength=3) / len(sorts)
    assert 0.15 < share[0] < 0.35 and 0.15 < share[2] < 0.35
    with pytest.raises(ValueError, match="are shares: together 0 to 1"):
        fresh(no_target_share=0.8, multi_target_share=0.3)


def test_the_special_splits_are_read_and_scored_as_grefcoco(tmp_path):
    write_refshapes(tmp_path, "mini", special_splits=True, progress=False)
    table = read_refer(tmp_path, "refshapes", "v1")
    none, many = (table[table["split"] == split] for split in ("no_target", "multi_target"))
    assert none["num_targets"].eq(0).all() and none["area"].eq(0).all() and many["num_targets"].ge(2).all()
    config = magnet_with("head")
    model, data = magnet.build_model(config.model).eval(), replace(config.data, root=str(tmp_path), image_size=64)
    torch.nn.init.constant_(model.target.bias, -100.0)  # says of every sentence that it means nothing
    tables = [magnet.evaluate(model, data, split, "gres", config=config, progress=False)
              for split in ("no_target", "multi_target")]  # fmt: skip
    right, wrong = (magnet.summarize(table) for table in tables)
    assert right["N-acc"] == right["mIoU"] == 100.0 and wrong["T-acc"] == wrong["mIoU"] == 0.0


@pytest.mark.parametrize("rule", ["area", "head"])
def test_a_network_learns_when_nothing_is_meant(rule):
    """By heart: six scenes, some of them spoken of by sentences that mean nothing."""
    config, data = magnet_with(rule), fresh(no_target_share=0.5)
    torch.manual_seed(0)
    batch = collate([data[number] for number in range(6)])
    empty = ~batch["masks"].flatten(1).any(1)
    assert 6 <= empty.sum() <= 30
    vision = replace(config.model.vision, drop_path=0.0)
    objective = Objective(replace(config, model=replace(config.model, vision=vision)))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    for step in range(1, 301):  # until it has learnt
        terms, _ = objective.train()(batch)
        losses.weighted_sum(objective.weights, terms).backward()
        optimizer.step(), optimizer.zero_grad()
        if step % 20 == 0 and (right := share_right(objective.model.eval(), batch, empty)) > 0.9:
            break
    assert right > 0.9


@torch.no_grad()
def share_right(model, batch, empty):
    answer = model(batch["images"], batch["token_ids"], batch["token_mask"])["mask_logits"]
    return (answer.le(0).flatten(1).all(1) == empty).float().mean()
