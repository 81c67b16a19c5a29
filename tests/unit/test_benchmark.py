"""The table of what variants cost: counts that can be checked by hand, and the control that must match."""

import pytest
import torch
from torch import nn

from magnet.workbench import benchmark


@pytest.fixture(scope="module")
def table():
    return benchmark.measure_variants("magnet_tiny", steps=1, batch_size=2).set_index("variant")


def test_every_variant_has_its_cost(table):
    assert list(table.index) == ["pwam", "pwam_matched", "cam", "cam, text side as released"]
    assert (table > 0).all(axis=None)


def test_the_control_has_the_alignment_modules_parameters(table):
    plain, matched, cam = (table.parameters[name] for name in ("pwam", "pwam_matched", "cam"))
    assert abs(matched - cam) < 1e-4 * cam and plain < 0.6 * cam
    assert table.gflop_per_image["pwam_matched"] >= table.gflop_per_image["cam"]  # a control with less would be unfair


def test_arithmetic_is_counted_for_one_image():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 5, 3, padding=1, bias=False)

        def forward(self, images, token_ids, token_mask):
            return self.layer(images)

    stepper = benchmark.Stepper.__new__(benchmark.Stepper)
    stepper.model = Network()
    stepper.batch = {
        "images": torch.zeros(4, 3, 10, 10),
        "token_ids": torch.zeros(4, 2),
        "token_mask": torch.ones(4, 2),
    }
    assert stepper.gflop_per_image() == pytest.approx(2 * 10 * 10 * 3 * 9 * 5 / 1e9)
