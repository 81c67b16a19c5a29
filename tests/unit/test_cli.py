"""`magnet train`: training-only parts are switched on and off by name."""

from dataclasses import replace

import pytest

import magnet
from magnet import cli, recipes
from magnet.config import AlignmentConfig, GroundingConfig


class Trained:
    folder, name = "results/runs/x", "x"


@pytest.fixture
def chosen(monkeypatch):
    """What `magnet train lavt_tiny ...` would train."""

    def choose(*arguments):
        configs = []
        monkeypatch.setattr(magnet, "fit", lambda config, init: configs.append(config) or Trained, raising=False)
        cli.train(["lavt_tiny", *arguments])
        return configs[0]

    return choose


def test_parts_are_off_until_they_or_their_settings_are_named(chosen):
    assert chosen() == magnet.recipe("lavt_tiny")
    assert chosen("--grounding").grounding == GroundingConfig()
    both = chosen("--grounding.ratio", "0.3", "--grounding.passes", "1", "--alignment.pixel-text", "0", "--seed", "4")
    assert both.grounding == GroundingConfig(ratio=0.3, passes=1)
    assert both.alignment == AlignmentConfig(pixel_text=0.0) and both.seed == 4


def test_parts_that_a_recipe_has_can_be_switched_off(chosen, monkeypatch):

    with_parts = replace(recipes.lavt_tiny(), grounding=GroundingConfig(ratio=0.5), alignment=AlignmentConfig())
    monkeypatch.setitem(recipes.RECIPES, "lavt_tiny", lambda: with_parts)
    assert chosen().grounding == chosen("--grounding").grounding == GroundingConfig(ratio=0.5)
    assert chosen("--grounding.passes", "1").grounding == GroundingConfig(ratio=0.5, passes=1)
    assert chosen("--no-grounding").grounding is None and chosen("--no-grounding").alignment == AlignmentConfig()


def test_help_shows_every_setting_and_contradictions_are_refused(chosen, capsys):
    with pytest.raises(SystemExit) as stopped:
        chosen("--help")
    shown = capsys.readouterr().out
    assert stopped.value.code == 0 and "--grounding.mask-encoder" in shown and "--alignment.num-samples" in shown
    with pytest.raises(SystemExit) as stopped:
        chosen("--no-grounding", "--grounding.ratio", "0.3")
    assert stopped.value.code == 2
