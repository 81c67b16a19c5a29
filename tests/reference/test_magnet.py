"""Released MagNet checkpoints, rebuilt from the public recipe: same numbers, every tensor placed, clear refusals."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_magnet
from safetensors.torch import save_file

import magnet

from . import test_lavt
from .recipe import make_inputs, make_weights, read_shapes, reference_folder

TOLERANCE = 2e-4  # the largest difference seen is 6e-5, of logits up to 23
SALT = 11
WITHOUT_EFFECT = (
    r"relative_position_index$|^image_model\.norm\d|^language_model\.norms|^lang_proj|class_embed|"
    r"^image_model\.layers\.3\.res_gate|^language_model\.(pwams|res_gates)\.3|"
    r"^language_model\.pwams.*f_(key|value)\.0\.bias"  # before an instance norm
)


def shrink(shapes: dict) -> dict:
    """The same network four times narrower, with 400 words and small feed-forward layers."""
    rows_kept = re.compile(r"relative_position_|sampling_offsets|attention_weights")

    def narrow(name: str, shape: list[int]) -> list[int]:
        if rows_kept.search(name):
            return [shape[0], *(n // 4 if n == 256 else n for n in shape[1:])]
        return [{30522: 400, 24: 6}.get(n, n // 4 if n >= 48 else n) for n in shape]

    return {name: [narrow(name, shape), dtype] for name, (shape, dtype) in shapes.items()}


@pytest.fixture(scope="module")
def released():
    return magnet.load_released(make_weights(read_shapes("magnet_released_swin-tiny"), SALT))


@pytest.fixture
def small() -> dict:
    return make_weights(shrink(read_shapes("magnet_released_swin-tiny")), SALT)


@pytest.mark.parametrize("height, width", [(224, 224), (160, 192)])
@torch.no_grad()
def test_logits_are_those_of_the_released_implementation(released, height, width):
    expected = np.load(reference_folder() / f"magnet_released_swin-tiny_{height}x{width}_salt11.npz")
    outputs = released(*make_inputs(2, height, width))
    assert outputs["mask_logits"].shape == (2, height // 4, width // 4) and len(outputs["aux_mask_logits"]) == 9
    assert np.abs(outputs["mask_logits"].numpy() - expected["pred_masks"][:, 0]).max() < TOLERANCE
    assert np.abs(outputs["aux_mask_logits"][0].numpy() - expected["first_aux"][:, 0]).max() < TOLERANCE


@torch.no_grad()
def test_one_image_gets_the_answer_it_gets_in_a_batch(released):
    images, token_ids, token_mask = make_inputs(2, 160, 192)
    together = released(images, token_ids, token_mask)["mask_logits"]
    for row in range(2):
        one = slice(row, row + 1)
        alone = released(images[one], token_ids[one], token_mask[one])["mask_logits"]
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=2e-4)


def test_swin_base_checkpoint_finds_a_place_for_every_tensor():
    shapes = read_shapes("magnet_released_swin-base")
    assert sum(int(np.prod(shape)) for shape, dtype in shapes.values() if dtype == "float32") == 296_984_954
    checkpoint = {name: torch.ones((), dtype=getattr(torch, d)).expand(shape) for name, (shape, d) in shapes.items()}
    checkpoint |= make_weights({name: kind for name, kind in shapes.items() if kind[1] == "int64"})
    model = magnet.load_released({"model": checkpoint})
    options, config = model.config.vision.options, model.config
    assert (options["embed_dim"], options["window_size"]) == (128, 12)
    assert options["depths"] == [2, 2, 18, 2] and options["num_heads"] == [4, 8, 16, 32]
    assert (config.decoder_width, config.pixel_decoder_layers, config.decoder_layers) == (256, 4, 9)
    assert (config.pixel_decoder_feedforward, config.decoder_feedforward) == (1024, 2048)
    assert all((tensor == 1).all() for tensor in model.state_dict().values())  # nothing kept its random start
    placed = [shape for name, (shape, _) in shapes.items() if not re.search(WITHOUT_EFFECT, name)]
    assert sum(t.numel() for t in model.state_dict().values()) == sum(int(np.prod(shape)) for shape in placed)


@torch.no_grad()
def test_a_file_and_its_state_dict_give_the_same_network(small, tmp_path):
    path = tmp_path / "magnet.pth"
    torch.save({"model": small}, path)
    images, token_ids, token_mask = make_inputs(2, 64, 96)
    models = [magnet.load_released(source) for source in (path, small, {"model": small})]
    answers = [model(images, token_ids % 400, token_mask)["mask_logits"] for model in models]
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert models[0].config.decoder_width == 64 and not models[0].training


NAME = "image_model.layers.1.mixer.1.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {NAME: None},
            r"a MagNet with {.*: 1, first image_sides\.1\.mixer\.1\.weight is missing.*cut short",
        ),
        ({"surprise": torch.zeros(1)}, "surprise has no place.*more than this network"),
        (
            {NAME: torch.zeros(49)},
            r"first image_model\.layers\.1\.mixer\.1\.weight is \(49,\), not \(48,\).*All others fit",
        ),
        ({NAME: torch.full((48,), float("nan"))}, "is not finite.*fetch or train it again"),
        ({"image_model.patch_embed.proj.weight": None}, "without the tensor 'image_model.patch_embed.proj.weight'"),
        ({"image_model.patch_embed.proj.weight": torch.zeros(26, 3, 4, 4)}, "sizes no network has, damaged?"),
        ({"language_model.embeddings.word_embeddings.weight": torch.zeros(400)}, "sizes no network has, damaged?"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(small, change, message):
    tensors = {name: tensor for name, tensor in {**small, **change}.items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        magnet.load_released(tensors)


@pytest.mark.parametrize(
    "lost, message",
    [
        (r"transformer_\w+_layers\.8\.", r"8 layers .*every published MagNet has 9; it was cut short"),
        (r"language_model\.encoder\.layer\.11\.", "11 layers .* has 12; it was cut short"),
        (r"pixel_decoder\.transformer\.encoder\.layers\.3\.", "3 layers .* has 4; it was cut short"),
        (r"^lang_proj\.", "no tensor .*lang_proj.*, which every published MagNet has"),
    ],
)
def test_a_file_without_its_last_layers_is_no_smaller_network(small, lost, message):
    with pytest.raises(ValueError, match=message):
        magnet.load_released({name: tensor for name, tensor in small.items() if not re.search(lost, name)})


def test_a_changed_window_index_is_noticed(small):
    name = "image_model.layers.1.blocks.1.attn.relative_position_index"
    with pytest.raises(ValueError, match=f"{name} is not what its window gives"):
        magnet.load_released({**small, name: small[name].flip(0)})


def test_one_wrong_width_is_the_one_that_is_named(small):
    name = "classifier.pixel_decoder.mask_features.weight"
    with pytest.raises(ValueError, match=rf"differences: 1, first {re.escape(name)} is \(32, .*All others fit"):
        magnet.load_released({**small, name: small[name][:32]})


def test_a_decoder_of_another_size_is_refused_with_five_tensors(small):
    wide = make_weights(read_shapes("magnet_released_swin-tiny"), SALT)
    mixed = {name: (wide if "pixel_decoder.transformer.encoder" in name else small)[name] for name in small}
    with pytest.raises(
        ValueError, match=r"pixel_decoder\.transformer\.encoder\.layers\.0.*It is of another size"
    ) as refusal:
        magnet.load_released(mixed)
    assert str(refusal.value).count(", not (") == 5


@pytest.mark.parametrize(
    "change, reason",
    [
        (
            lambda small: {f"module.{name}": tensor for name, tensor in small.items()},
            "begin with 'module.', .*off",
        ),
        (lambda small: {"weights": small}, r"no tensors in it, only \['weights'\]"),
        (lambda small: {0: torch.zeros(1)}, r"no tensors in it, only \[0\]"),
        (lambda small: {"model": {"a": torch.zeros(1)}, "bert_model": None}, r"It holds \['a'\]"),
        (lambda small: {"model": list(small.values())}, "a dictionary of tensors, not a list"),
        (lambda small: {"model": small, "bert_model": 3}, "a dictionary of tensors, not a int"),
    ],
)
def test_tensors_under_other_names_are_told_apart(small, change, reason):
    with pytest.raises(ValueError, match=reason):
        magnet.load_released(change(small))


@pytest.mark.parametrize("length", [0, 3, 2000, -100_000, -1])
def test_a_file_cut_short_is_named_whatever_is_left_of_it(small, tmp_path, length):
    path = tmp_path / "magnet.pth"
    torch.save({"model": small}, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"magnet\.pth: not a .*fetch it again"):
        magnet.load_released(path)


def test_files_of_other_formats_are_named(tmp_path):
    path = tmp_path / "magnet.pth"
    path.write_text("<!DOCTYPE html><p>Entry not found")
    with pytest.raises(ValueError, match=r"magnet\.pth: not a checkpoint of PyTorch, it begins with b'<!DOCTYP'"):
        magnet.load_released(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(ValueError, match=r"magnet\.pth: a checkpoint is a dictionary of tensors, not a list"):
        magnet.load_released(path)
    for name, reason in [("bert.embeddings.LayerNorm.weight", "bare language"), ("vision.body.x", r"magnet\.load")]:
        save_file({name: torch.zeros(1)}, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match=rf"other\.safetensors: no known release.*{reason}"):
            magnet.load_released(tmp_path / "other.safetensors")


def test_training_starts_only_from_a_released_file_of_its_own_kind_and_size(small, tmp_path, run_root):
    config = tiny_magnet(num_steps=1, val_every=1, lr=0.0)
    lavt = test_lavt.make_checkpoint(test_lavt.shrink(read_shapes("lavt_released_swin-tiny")))
    reasons = {"lavt": "another kind of network: it has decoder, fusions, norms", "magnet": "It is of another size"}
    for (method, reason), tensors in zip(reasons.items(), (lavt, {"model": small})):
        torch.save(tensors, tmp_path / f"{method}.pth")
        assert magnet.load_released(tmp_path / f"{method}.pth").config.method == method
        with pytest.raises(ValueError, match=rf"^init does not fit this network; .*; .*; .*; .*; .*{reason}"):
            magnet.fit(config, init=tmp_path / f"{method}.pth", progress=False)
    released = magnet.load_released(small)
    language = replace(released.config.language, vocabulary="refshapes")
    config = replace(config, model=replace(released.config, language=language))
    trained = magnet.fit(config, init=tmp_path / "magnet.pth", progress=False).load_model().state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in released.state_dict().items())
