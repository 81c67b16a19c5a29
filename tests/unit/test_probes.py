"""Probes against brute force and hand-made cases: what they say about a backbone must be about the backbone."""

import numpy as np
import pytest
import torch
from torch import nn

from magnet.config import VisionConfig
from magnet.models.vision import VisionBackbone
from magnet.refshapes.draw import render
from magnet.refshapes.scene import COLOURS, SHAPES, draw_scene
from magnet.workbench import probes

RESNET = VisionConfig(
    name="resnet10t", drop_path=0.0,
    options={"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "stem_width": 8, "out_indices": (1, 2, 3, 4)},
)  # fmt: skip


@pytest.fixture(scope="module")
def pixels():
    return probes.draw_pixels("val", 6, per_object=3, image_size=48, seed=2)


def test_pixels_lie_on_the_object_that_their_answer_names(pixels):
    scenes = [draw_scene(2, number, "val") for number in range(6)]
    masks = [render(scene, 48)[1] for scene in scenes]
    assert len(pixels.row) == 3 * sum(len(scene.objects) for scene in scenes)
    for picture, row, column, colour, shape in zip(
        pixels.picture, pixels.row, pixels.column, pixels.labels["colour"], pixels.labels["shape"]
    ):
        (owner,) = np.flatnonzero(masks[picture][:, row, column])
        thing = scenes[picture].objects[owner]
        assert (thing.colour, thing.shape) == (list(COLOURS)[colour], SHAPES[shape])


def test_some_pictures_keep_their_own_pixels(pixels):
    some = pixels.of(torch.tensor([4, 1]))
    torch.testing.assert_close(some.images, pixels.images[[4, 1]])
    for new, old in enumerate((4, 1)):
        for name in ("colour", "shape"):
            kept, whole = some.labels[name][some.picture == new], pixels.labels[name][pixels.picture == old]
            assert kept.tolist() == whole.tolist()
        assert some.row[some.picture == new].tolist() == pixels.row[pixels.picture == old].tolist()


def test_features_are_those_of_the_cell_that_holds_the_pixel(pixels):
    maps = [torch.randn(6, 5, 12, 12), torch.randn(6, 2, 3, 6)]
    for x, found in zip(maps, probes.features_at(maps, pixels)):
        for index, (n, row, column) in enumerate(zip(pixels.picture, pixels.row, pixels.column)):
            cell = int(row / 48 * x.shape[2]), int(column / 48 * x.shape[3])
            assert torch.equal(found[index], x[n, :, cell[0], cell[1]])


def test_a_probe_is_linear():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=generator) * 3 + 5
    half_plane, xor = (x[:, 0] > x[:, 1]).long(), ((x[:, 0] > 5) ^ (x[:, 1] > 5)).long()
    right = [(probes.linear_probe(x[:300], y[:300], x[300:]) == y[300:]).float().mean() for y in (half_plane, xor)]
    assert right[0] > 0.97 and right[1] < 0.75


def test_answers_of_one_picture_are_one_observation():
    groups = torch.arange(40).repeat_interleave(10)
    right = (groups % 2).bool()  # a picture is answered as a whole, or not at all
    together, alone = probes.accuracy(right, groups), probes.accuracy(right, torch.arange(400))
    assert together["accuracy"] == alone["accuracy"] == 50 and together["n"] == 400
    width, narrow = (one["accuracy_high"] - one["accuracy_low"] for one in (together, alone))
    assert 2.5 < width / narrow < 4  # sqrt(10)


def test_probing_leaves_the_backbone_as_it_was(pixels):
    torch.manual_seed(0)
    backbone = VisionBackbone(RESNET).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    table = probes.probe_stages(backbone, pixels, pixels)
    assert backbone.training and all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    assert table["stage"].tolist() == [0, 1, 2, 3, 4] * 2 and table["asked"].tolist() == ["colour"] * 5 + ["shape"] * 5
    assert (table["accuracy_low"] <= table["accuracy"]).all() and (table["n"] == len(pixels.row)).all()
    assert table["accuracy"].iloc[0] > probes.chance(pixels)["colour"]  # three numbers of colour tell something


def test_training_on_pixels_learns_a_few_pictures(pixels):
    torch.manual_seed(0)
    backbone = VisionBackbone(RESNET)
    before = backbone.body["conv1"][0].weight.clone()
    log = probes.train_on_pixels(backbone, pixels, num_steps=40, batch_size=6, lr=1e-2)
    assert log["loss"].iloc[-5:].mean() < 0.5 * log["loss"].iloc[0]
    assert log["colour"].iloc[-5:].mean() > 80 and log["step"].tolist() == list(range(1, 41))
    assert not torch.equal(before, backbone.body["conv1"][0].weight)


class Stack(nn.Module):
    """Two 3 x 3 convolutions, the first with stride 2: a position reads 3 + 2·2 = 7 pixels each way."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        return [x, self.second(x)]


def test_gradients_reach_as_far_as_counting_says():
    torch.manual_seed(0)
    images, stack = torch.randn(2, 3, 32, 32), Stack()
    gradients = [probes.input_gradient(stack, stage, images) for stage in (0, 1)]
    assert [probes.reach(one) for one in gradients] == [3, 7]
    assert all(one.sum() == pytest.approx(1) for one in gradients)
    assert all(p.grad is None for p in stack.parameters())


def test_effective_size_of_known_fields():
    flat = np.zeros((31, 31))
    flat[5:16, 10:21] = 1.0
    assert probes.effective_size(flat, 0.999) == 11
    assert probes.effective_size(flat, 0.5) == 9  # 49 of 121 cells are too few, 81 are enough
    point = np.zeros((31, 31))
    point[3, 4] = 2.0
    assert probes.effective_size(point) == 1


def test_backbones_side_by_side():
    table = probes.compare_backbones({"a": RESNET}, image_size=64, repeats=1)
    assert table.loc["a", "strides"] == "4 8 16 32" and table.loc["a", "channels"] == "8 8 16 16"
    assert table.loc["a", "thousand parameters"] == sum(p.numel() for p in VisionBackbone(RESNET).parameters()) // 1000
    assert table.loc["a", "ms"] > 0
