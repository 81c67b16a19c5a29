"""The table of what variants cost: counts that can be checked by hand, and the control that must match."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import tiny_magnet
from torch import nn

import magnet
from magnet import cli
from magnet.config import AlignmentConfig, GroundingConfig
from magnet.recipes import RECIPES
from magnet.workbench import benchmark

NETWORKS = ["pwam", "pwam_matched", "cam", "cam, text side as released"]
PARTS = ["grounding, two passes", "grounding, one pass", "alignment, pixel_pixel", "alignment, pixel_text",
         "alignment, both", "grounding, two passes + alignment, both"]  # fmt: skip


@pytest.fixture(scope="module")
def table():
    config = replace(tiny_magnet(), grounding=GroundingConfig(ratio=0.5, num_layers=1))
    return benchmark.measure_variants(config, steps=2, batch_size=2).set_index("variant")


def test_every_network_and_every_part_has_its_cost(table):
    assert list(table.index) == [*NETWORKS, *(f"cam + {part}" for part in PARTS)]
    assert (table.drop(columns="training_parameters") > 0).all(axis=None)
    assert (table.loc[NETWORKS, "training_parameters"] == 0).all() and (table.loc[NETWORKS, "ratio"] == 1).all()
    assert (table.loc[NETWORKS, "training_gflop"] == table.loc[NETWORKS, "forward_gflop"]).all()


def test_parts_add_to_training_and_leave_the_network_as_it_is(table):
    for column in ("parameters", "forward_gflop"):
        assert table[column].iloc[4:].nunique() == 1 and table[column].iloc[4] == table[column]["cam"]
    extra = table["training_gflop"] - table["forward_gflop"]["cam"]
    two, one = extra["cam + grounding, two passes"], extra["cam + grounding, one pass"]
    assert two > 5 * one > 0, "the second pass costs more than the predictor"
    pixel_pixel, pixel_text, both = (
        extra[f"cam + alignment, {name}"] for name in ("pixel_pixel", "pixel_text", "both")
    )
    assert both == pytest.approx(pixel_pixel + pixel_text) and min(pixel_pixel, pixel_text) > 0
    assert extra["cam + grounding, two passes + alignment, both"] == pytest.approx(two + both)
    counts = table["training_parameters"]
    assert counts["cam + alignment, pixel_pixel"] == 0, "it has no weights of its own"
    assert counts["cam + alignment, both"] == counts["cam + alignment, pixel_text"] == 17 * 16
    assert counts["cam + grounding, two passes"] == counts["cam + grounding, one pass"] > 17 * 16


def test_variants_differ_in_what_their_names_say_and_keep_the_recipes_settings():
    alignment = AlignmentConfig(num_samples=7)
    config = replace(tiny_magnet(), alignment=alignment, grounding=GroundingConfig(ratio=0.5, passes=1))
    made = benchmark.variants(config)
    assert all(c.grounding is None and c.alignment is None for c in list(made.values())[:4])
    assert made["cam + alignment, pixel_pixel"].alignment == replace(alignment, pixel_text=0.0)
    assert made["cam + alignment, both"] == replace(config, grounding=None)
    assert made["cam + grounding, two passes"].grounding == GroundingConfig(ratio=0.5, passes=2)
    everything = made["cam + grounding, two passes + alignment, both"]
    assert everything == replace(config, grounding=GroundingConfig(ratio=0.5, passes=2))


def test_the_ratio_is_taken_within_a_round():
    """A machine that becomes ten times slower in the middle changes no ratio."""
    config = tiny_magnet()
    configs = {"plain": config, "with": replace(config, alignment=AlignmentConfig())}
    rounds = pd.DataFrame({"plain": [1.0, 10.0, 10.0], "with": [2.0, 20.0, 25.0]})
    timed = benchmark._with_times(pd.DataFrame({"variant": ["plain", "with"]}), rounds, configs)
    assert timed["ratio"].tolist() == [1.0, 2.0] and timed["seconds_per_step"].tolist() == [10.0, 20.0]


def test_the_control_has_the_alignment_modules_parameters():
    recipe = magnet.recipe("magnet_tiny")
    configs = benchmark.variants(replace(recipe, model=benchmark.offline(recipe.model)))
    steppers = [benchmark.Stepper(configs[name], batch_size=1) for name in ("pwam", "pwam_matched", "cam")]
    plain, matched, cam = (stepper.cost() for stepper in steppers)
    model = steppers[2].objective.model
    widths = [*model.vision.channels, *(model.language.width for _ in model.text_sides)]
    half_rows = sum(2 * width + 1 for width in widths) / 2  # an MLP is as wide as a whole number of rows
    assert abs(matched["parameters"] - cam["parameters"]) <= half_rows < 1e-3 * cam["parameters"]
    assert plain["parameters"] < 0.8 * cam["parameters"]
    assert matched["forward_gflop"] >= cam["forward_gflop"]  # a control with less would be unfair


def test_without_steps_there_is_no_time():
    assert list(benchmark.measure_variants(tiny_magnet(), steps=0)) == [
        "variant", "parameters", "training_parameters", "forward_gflop", "training_gflop",
    ]  # fmt: skip


def test_arithmetic_is_counted_for_the_network_and_for_all():
    class Training(nn.Module):
        """A network that is run as a whole, and one of whose layers is run once more."""

        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Conv2d(5, 2, 1, bias=False))
            self.part = nn.Linear(5, 7)

        def forward(self, batch):
            self.model(batch["images"])
            return self.part(self.model[0](batch["images"]).mean((2, 3)))

    network, total = benchmark.count_gflop(Training(), {"images": torch.zeros(2, 3, 10, 10)})
    first, second, part = 2 * 200 * 3 * 9 * 5, 2 * 200 * 5 * 2, 2 * 2 * 5 * 7
    assert network == pytest.approx((first + second) / 1e9) and total == pytest.approx(network + (first + part) / 1e9)


def test_full_size_needs_no_download_and_has_its_own_vocabulary():
    model = benchmark.offline(magnet.recipe("magnet_base").model)
    assert (model.vision.pretrained, model.language.pretrained, model.language.vocabulary) == (None, None, "refshapes")
    assert (
        model.language.options == {"vocab_size": 30522}
        and model.vision.name == magnet.recipe("magnet_base").model.vision.name
    )
    tiny = magnet.recipe("magnet_tiny").model
    assert benchmark.offline(tiny) == replace(tiny, vision=replace(tiny.vision, pretrained=None))


def test_a_random_batch_has_words_to_hide():
    config = replace(tiny_magnet(), grounding=GroundingConfig())
    stepper = benchmark.Stepper(config, batch_size=8)
    token_ids, hidden = stepper.batch["token_ids"], stepper.objective.grounding.hide
    assert hidden.candidates(token_ids, stepper.batch["token_mask"]).sum() == 8 * 18
    assert stepper.objective(stepper.batch)[1]["grounding_hidden_tokens"] > 0
    before = [p.detach().clone() for p in stepper.objective.parameters()]
    assert stepper.seconds(seed=1) > 0
    assert sum(not torch.equal(a, b) for a, b in zip(before, stepper.objective.parameters())) > 0.9 * len(before)


def test_the_file_says_how_it_was_made(tmp_path):
    table = pd.DataFrame({"variant": ["a", "b"], "ratio": [1.0, 1.23456789]})
    written = pd.read_csv(benchmark.write_table(table, tmp_path / "deep" / "v.csv", "magnet benchmark variants"))
    assert written["ratio"].tolist() == [1.0, 1.2346] and set(written["command"]) == {"magnet benchmark variants"}
    assert {"date", "hardware", "torch", "commit"} <= set(written) and written["hardware"].notna().all()


def test_a_dry_run_says_what_a_training_would_be_made_of(capsys, monkeypatch, tmp_path):
    config = replace(tiny_magnet(), grounding=GroundingConfig(ratio=0.5, num_layers=1))
    found = benchmark.dry_run(config)
    network = magnet.build_model(benchmark.offline(config.model))
    assert found["parameters"] == sum(p.numel() for p in network.parameters()) and found["training_parameters"] > 0
    assert found["training_gflop"] > found["forward_gflop"] > 0 and found["memory_gb"] > 0.1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["magnet", "train", "lavt_tiny", "--dry-run"])
    cli.main()
    said = capsys.readouterr().out
    assert "two steps on random data" in said and "training_parameters  0" in said
    assert not list(tmp_path.iterdir())  # nothing is written


@pytest.mark.parametrize("name", ["lavt_base", "magnet_base", "magnet_base_union", "coupalign_base"])
def test_full_size_recipes_say_what_is_and_what_is_not_measured(name):
    config = magnet.recipe(name)
    assert config.data.image_size == (448 if name == "magnet_base_union" else 480)
    assert (config.grounding is not None) == (config.alignment is not None) == name.startswith("magnet")
    for said in ("not measured", f"magnet train {name}", "On one GPU of 24 GB: --optim.micro-batch"):
        assert said in RECIPES[name].__doc__
