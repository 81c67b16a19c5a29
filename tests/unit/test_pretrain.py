"""The backbone that learns names first: what it is asked, that it learns, that it is kept and found again."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_magnet

import magnet
from magnet.config import VisionConfig
from magnet.models.vision import VisionBackbone
from magnet.refshapes import pretrain
from magnet.refshapes.draw import render
from magnet.refshapes.scene import draw_scene

VISION = VisionConfig(
    name="resnet10t", drop_path=0.0, pretrained="refshapes", pretraining_steps=2,
    options={"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8), "stem_width": 8, "out_indices": (1, 2, 3, 4)},
)  # fmt: skip


def test_answers_are_those_of_the_object_at_each_pixel():
    images, labels = pretrain.draw_named(first=3, stride=4, seed=1, num=2)
    assert images.shape == (2, 3, 96, 96) and labels.shape == (2, 4, 24, 24)
    for number, answers in zip((3, 4), labels):
        scene = draw_scene(1, number)
        _, masks = render(scene, 96)
        for row, column in ((r, c) for r in range(24) for c in range(24)):
            here = [k for k, mask in enumerate(masks) if mask[4 * row + 2, 4 * column + 2]]
            found = answers[:, row, column].tolist()
            if not here:
                assert found == [-100] * 4
                continue
            named = [known[answer] for known, answer in zip(pretrain.ASKED.values(), found)]
            thing = scene.objects[here[0]]
            assert named == [thing.shape, thing.colour, thing.texture, thing.size]


def test_it_learns_colours_first(run_root, monkeypatch):
    """In forty steps colour is far above chance, one in eight, on scenes it has not seen."""
    kept, head = {}, pretrain.NamingHead
    monkeypatch.setattr(pretrain, "NamingHead", lambda channels: kept.setdefault("head", head(channels)))
    network = pretrain.pretrain(replace(VISION, pretraining_steps=40)).eval()
    images, labels = pretrain.draw_named(first=10**6, stride=4, seed=0)
    with torch.no_grad():
        logits = pretrain.name_pixels(network, kept["head"].eval(), images)
    colour, truth = logits[:, 8:16].argmax(1), labels[:, 1]
    assert (colour == truth)[truth >= 0].float().mean() > 0.5


def test_it_is_kept_and_found_again_and_random_numbers_do_not_depend_on_it(run_root):
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        backbone = VisionBackbone(VISION)
        drawn.append(torch.rand(1).item())
    (path,) = (run_root.parent / "pretrained").glob("resnet10t-*.safetensors")
    assert drawn[0] == drawn[1] and pretrain.pretrained_file(VISION) == path
    kept = magnet.runs.read_tensors(path)
    assert all(torch.equal(kept[name], value) for name, value in backbone.body.state_dict().items())
    assert pretrain.pretrained_file(replace(VISION, pretraining_steps=3)) != path
    assert pretrain.pretrained_file(replace(VISION, drop_path=0.1)) == path


def test_a_finished_run_does_not_ask_for_it(run_root):
    config = tiny_magnet(num_steps=1)
    run = magnet.fit(replace(config, model=replace(config.model, vision=VISION)), progress=False)
    for path in (run_root.parent / "pretrained").iterdir():
        path.write_bytes(b"broken")
    assert run.load_model().vision.channels == [8, 8, 8, 8]
    with pytest.raises(ValueError, match="cannot read"):
        VisionBackbone(VISION)
