"""The backbone that learns names first: what it is asked, that it learns, that it is kept, when `fit` asks for it."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_magnet

import magnet
from magnet.config import VisionConfig
from magnet.refshapes import pretrain
from magnet.refshapes.draw import render
from magnet.refshapes.scene import draw_scene

VISION = VisionConfig(
    name="resnet10t", drop_path=0.0, pretrained="refshapes", pretraining_steps=2,
    options={"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8), "stem_width": 8, "out_indices": (1, 2, 3, 4)},
)  # fmt: skip


def with_vision(config, **vision):
    return replace(config, model=replace(config.model, vision=replace(VISION, **vision)))


def test_answers_are_those_of_the_object_at_each_pixel():
    images, labels = pretrain.draw_named(first=3, seed=1, num=2)
    assert images.shape == (2, 3, 96, 96) and labels.shape == (2, 4, 96, 96)
    for number, answers in zip((3, 4), labels):
        scene = draw_scene(1, number)
        _, masks = render(scene, 96)
        for row, column in ((r, c) for r in range(0, 96, 5) for c in range(0, 96, 5)):
            here = [k for k, mask in enumerate(masks) if mask[row, column]]
            found = answers[:, row, column].tolist()
            if not here:
                assert found == [-100] * 4
                continue
            named = [known[answer] for known, answer in zip(pretrain.ASKED.values(), found)]
            thing = scene.objects[here[0]]
            assert named == [thing.shape, thing.colour, thing.texture, thing.size]


def test_a_cell_is_asked_for_what_stands_in_its_middle():
    """Sure and right in the middle of each cell, whatever is around it: no loss."""
    labels = torch.full((1, 4, 12, 12), 1)
    labels[:, :, 2::4, 2::4] = 3
    labels[:, 3, 2::4, 2::4] = 2
    logits = torch.full((1, 23, 3, 3), -50.0)
    logits[:, [3, 8 + 3, 16 + 3, 20 + 2]] = 50.0
    assert pretrain.naming_loss(logits, labels).item() == 0
    assert pretrain.naming_loss(logits, labels.roll(1, 2)).item() > 100


def test_it_learns_colours_first(monkeypatch):
    """In forty steps colour is far above chance, one in eight, on scenes it has not seen."""
    kept, head = {}, pretrain.NamingHead
    monkeypatch.setattr(pretrain, "NamingHead", lambda channels: kept.setdefault("head", head(channels)))
    network = pretrain.pretrain(replace(VISION, pretraining_steps=40), progress=False).eval()
    images, labels = pretrain.draw_named(first=10**6, seed=0)
    with torch.no_grad():
        colour = kept["head"].eval()(network(images))[:, 8:16].argmax(1)
    truth = labels[:, 1, 2::4, 2::4]
    assert (colour == truth)[truth >= 0].float().mean() > 0.5


@pytest.mark.parametrize("vision", [VISION, tiny_magnet().model.vision], ids=["ResNet", "Swin"])
def test_a_training_starts_from_it_and_others_find_it(run_root, vision, monkeypatch):
    config = tiny_magnet(num_steps=1, lr=0.0)
    config = replace(config, model=replace(config.model, vision=vision))
    learnt = with_vision(config, **{**vars(vision), "pretrained": "refshapes", "pretraining_steps": 2})
    state = torch.get_rng_state()
    path = pretrain.pretrained_file(learnt.model.vision, progress=False)
    assert torch.equal(state, torch.get_rng_state()) and path.parent == run_root.parent / "pretrained"
    monkeypatch.setattr(pretrain, "pretrain", None)  # from here on nobody may learn
    body = magnet.fit(learnt, progress=False).load_model().vision.body.state_dict()
    kept = {name: value for name, value in magnet.runs.read_tensors(path).items() if "running" not in name}
    assert all(torch.equal(body[name], value) for name, value in kept.items() if "num_batches" not in name)
    assert pretrain.kept_at(replace(learnt.model.vision, pretraining_steps=3)) != path
    assert pretrain.kept_at(replace(learnt.model.vision, drop_path=0.1)) == path


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": {"val_split": "none"}}, "none"),
        ({"data": {"fresh": True, "easy_kinds": ("place",)}}, "no kind"),
        ({"optim": {"frozen": ("nothing",)}}, "matches no parameter"),
        ({"optim": {"frozen": ("(",)}}, "no regular expression"),
        ({"optim": {"frozen": (".",)}}, "leaves no parameter"),
        ({"optim": {"rates": {"^language": -1.0}}}, "no share of 0 or more"),
        ({"model": {"num_heads": 0}}, "at least 1"),
        ({"model": {"pyramid": (0,)}}, "pyramid has 0"),
    ],
)
def test_wrong_settings_are_found_before_it_learns(run_root, monkeypatch, change, message):
    monkeypatch.setattr(pretrain, "pretrain", None)
    config = with_vision(tiny_magnet(num_steps=1))
    ((part, fields),) = change.items()
    with pytest.raises(ValueError, match=message):
        magnet.fit(replace(config, **{part: replace(getattr(config, part), **fields)}), progress=False)
    with pytest.raises(ValueError, match="pretraining_steps=0: at least 1"):
        magnet.fit(with_vision(config, pretraining_steps=0), progress=False)


def test_who_has_weights_does_not_ask_for_it(run_root, monkeypatch):
    config = with_vision(tiny_magnet(num_steps=1))
    run = magnet.fit(config, progress=False)
    next((run_root.parent / "pretrained").iterdir()).unlink()
    monkeypatch.setattr(pretrain, "pretrain", None)
    assert run.load_model().vision.channels == [8, 8, 8, 8]
    longer = replace(config, optim=replace(config.optim, num_steps=2))
    assert magnet.fit(longer, init=run, progress=False).is_finished
    (run.folder / "finished.json").unlink()
    assert magnet.fit(config, progress=False).is_finished  # resumed


def test_stopped_on_its_way_it_says_so(run_root, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "draw_named", stopped)
    with pytest.raises(KeyboardInterrupt, match="begins these steps again"):
        magnet.fit(with_vision(tiny_magnet(num_steps=1)), progress=False)
    assert not list(run_root.parent.rglob("*.safetensors"))
