"""Released LAVT checkpoints, rebuilt from the public recipe: same numbers, every tensor placed, clear refusals."""

import argparse
import re

import numpy as np
import pytest
import torch

import magnet

from .recipe import make_inputs, make_weights, read_shapes, reference_folder

TOLERANCE = 1e-4  # the largest difference seen is 4e-6


def make_checkpoint(shapes: dict) -> dict:
    """The released file's two groups of weights, for `lavt_released_*` shapes."""
    checkpoint = {group: make_weights(shapes[group]) for group in ("model", "bert_model")}
    for name, tensor in checkpoint["bert_model"].items():
        if name.endswith("output.dense.weight"):
            tensor *= 0.3  # else all words look alike
    return checkpoint


def shrink(shapes: dict) -> dict:
    """The same network four times narrower, with 160 words: quick to build, and sizes are read off the tensors."""
    narrow = {30522: 160}
    table = re.compile("relative_position_(bias_table|index)")
    return {
        group: {
            name: [[narrow.get(n, n // 4 if n >= 96 else n) for n in shape] if not table.search(name) else shape, dtype]
            for name, (shape, dtype) in tensors.items()
        }
        for group, tensors in shapes.items()
    }


def test_swin_base_checkpoint_finds_a_place_for_every_tensor():
    shapes = read_shapes("lavt_released_swin-base")
    checkpoint = {
        group: {name: torch.ones((), dtype=getattr(torch, dtype)).expand(shape) for name, (shape, dtype) in s.items()}
        for group, s in shapes.items()
    }
    index = {name: kind for name, kind in shapes["model"].items() if name.endswith("position_index")}
    checkpoint["model"] |= make_weights(index)
    model = magnet.load_released(checkpoint)
    options = model.config.vision.options
    assert (options["embed_dim"], options["window_size"]) == (128, 12)
    assert options["depths"] == [2, 2, 18, 2] and options["num_heads"] == [4, 8, 16, 32]
    assert all((tensor == 1).all() for tensor in model.state_dict().values())  # nothing kept its random start
    unused = ("relative_position_index", "layers.3.res_gate.0.weight", "layers.3.res_gate.2.weight")
    placed = [shape for s in shapes.values() for name, (shape, _) in s.items() if not name.endswith(unused)]
    assert sum(t.numel() for t in model.state_dict().values()) == sum(int(np.prod(shape)) for shape in placed)


@pytest.fixture(scope="module")
def released():
    return magnet.load_released(make_checkpoint(read_shapes("lavt_released_swin-tiny")))


@pytest.fixture
def small() -> dict:
    return make_checkpoint(shrink(read_shapes("lavt_released_swin-tiny")))


@pytest.mark.parametrize("height, width", [(224, 224), (160, 192)])
@torch.no_grad()
def test_logits_are_those_of_the_released_implementation(released, height, width):
    expected = np.load(reference_folder() / f"lavt_released_swin-tiny_{height}x{width}.npz")["logits"]
    logits = released(*make_inputs(2, height, width))["class_logits"].numpy()
    assert np.abs(logits - expected).max() < TOLERANCE


@torch.no_grad()
def test_answers_depend_on_neither_batch_nor_padding(released):
    images, token_ids, token_mask = make_inputs(2, 160, 192)
    together = released(images, token_ids, token_mask)["mask_logits"]
    length = int(token_mask[1].sum())
    alone = released(images[1:], token_ids[1:, :length], token_mask[1:, :length])["mask_logits"]
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_file_and_both_forms_give_the_same_network(small, tmp_path):
    path = tmp_path / "lavt.pth"
    torch.save({**small, "args": argparse.Namespace(lr=5e-5), "epoch": 39, "optimizer": {"state": {}}}, path)
    pooler = {
        f"text_encoder.pooler.dense.{end}": torch.zeros(shape) for end, shape in (("weight", (192, 192)), ("bias", 192))
    }
    text = {f"text_encoder.{name}": tensor for name, tensor in small["bert_model"].items()}
    together = {**small["model"], **text, **pooler, "text_encoder.embeddings.position_ids": torch.arange(128)[None]}
    models = [magnet.load_released(source) for source in (small, path, {"model": together}, together)]
    assert not any(model.training for model in models)
    images, token_ids, token_mask = make_inputs(2, 64, 96)
    answers = [model(images, token_ids % 160, token_mask)["mask_logits"] for model in models]
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert magnet.load_released(path).config.language.options["num_attention_heads"] == 3


def test_checkpoints_that_do_not_fit_are_refused(small):
    name = "backbone.layers.2.blocks.5.norm1.weight"
    for change, message in [
        ({name: None}, r"vision\.body\.layers_2\.blocks\.5\.norm1\.weight is missing"),
        ({"surprise": torch.zeros(1)}, "surprise has no place"),
        ({name: torch.zeros(95)}, r"\(95,\), not \(96,\)"),
        ({name: torch.full((96,), float("nan"))}, "is not finite"),
        ({"backbone.patch_embed.proj.weight": None}, "without the tensor 'backbone.patch_embed.proj.weight'"),
    ]:
        model = {key: tensor for key, tensor in {**small["model"], **change}.items() if tensor is not None}
        with pytest.raises(ValueError, match=message):
            magnet.load_released({**small, "model": model})


@pytest.mark.parametrize(
    "name, reason",
    [
        ("layers.0.blocks.0.norm1.weight", r"name it in vision\.pretrained"),
        ("bert.embeddings.LayerNorm.weight", r"folder in language\.pretrained"),
        ("vision.body.patch_embed.proj.weight", r"use magnet\.load"),
        ("conv.weight", r"no known release: LAVT .*\['conv.weight'\]"),
    ],
)
def test_other_kinds_of_file_are_told_apart(name, reason):
    with pytest.raises(ValueError, match=reason):
        magnet.load_released({"model": {name: torch.zeros(1)}})


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        magnet.load_released(tmp_path / "absent.pth")
    path = tmp_path / "released.pth"
    torch.save({"model": {"weight": torch.nn.Linear(1, 1)}}, path)  # pickles a class: refused, not run
    with pytest.raises(
        ValueError, match=r"released\.pth: refused, more than tensors and plain values: .*nn\.modules\.linear\.Linear.*"
    ):
        magnet.load_released(path)
    torch.save({"model": {"weight": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"released\.pth"):
        magnet.load_released(path)
