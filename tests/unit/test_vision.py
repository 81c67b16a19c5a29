"""Vision backbones: stepped stages equal the whole network, Swin equals another implementation, files load strictly."""

import copy
import re
from dataclasses import replace

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import SwinBackbone, SwinConfig

from magnet.config import VisionConfig
from magnet.models.vision import VisionBackbone
from magnet.models.window_attention import PadThenRollBlock, attend, attend_plainly, shifted_window_mask

SWIN = VisionConfig(
    name="swin_tiny_patch4_window7_224",
    options={"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4},
    drop_path=0.0,
)
SMALL = {
    "swin": SWIN,
    "swinv2": VisionConfig(
        name="swinv2_tiny_window8_256",
        options={"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": 4, "img_size": 64},
    ),
    "convnext": VisionConfig(name="convnext_atto", options={"dims": (8, 16, 32, 64), "depths": (1, 1, 2, 1)}),
    "resnet": VisionConfig(name="resnet10t", options={"out_indices": (1, 2, 3, 4)}),
}


def build(config: VisionConfig, **options) -> VisionBackbone:
    torch.manual_seed(0)
    return VisionBackbone(config, **options).eval()


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_stages_one_by_one_equal_the_whole_network(name):
    backbone = build(SMALL[name], pad_then_roll=False)
    images = torch.randn(2, 3, 72, 104)
    expected = backbone.body(images)  # timm runs it in one go
    for index, (ours, theirs) in enumerate(zip(backbone(images), expected, strict=True)):
        theirs = theirs.permute(0, 3, 1, 2) if "swin" in name else theirs
        assert ours.shape[1] == backbone.channels[index]
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", SMALL)
def test_odd_images_run_and_an_edited_map_enters_the_next_stage(name):
    backbone = build(SMALL[name])
    images = torch.randn(1, 3, 75, 101)
    x = backbone.stem(images)
    assert x.shape[-2:] == (19, 26)  # rounded up to whole patches
    edited = [backbone.stage(0, x)]
    plain = backbone(images)
    torch.testing.assert_close(edited[0], plain[0])
    assert not torch.allclose(backbone.stage(1, plain[0] * 2 + torch.randn_like(plain[0])), plain[1])
    sum(m.sum() for m in plain).backward()
    assert all(p.grad is not None for p in backbone.parameters())


@torch.no_grad()
def test_swin_equals_the_implementation_in_transformers():
    """Padded, odd and not square, down to maps smaller than a window: the order of padding and rolling shows."""
    options = {"embed_dim": 16, "depths": (2, 2, 2), "num_heads": (2, 4, 8), "window_size": 5}
    ours, images = build(replace(SWIN, options=options)), torch.randn(2, 3, 75, 101)
    expected = huggingface_swin(options, ours)(images).feature_maps
    for map, theirs in zip(ours(images), expected, strict=True):
        torch.testing.assert_close(map, theirs, rtol=1e-4, atol=1e-5)
    timms = build(replace(SWIN, options=options), pad_then_roll=False)(images)
    assert (timms[-1] - expected[-1]).abs().max() > 0.01  # so the test above can fail


def huggingface_swin(options: dict, ours: VisionBackbone) -> SwinBackbone:
    """The same network, with the same weights, from another library."""
    stages = [f"stage{i + 1}" for i in range(len(options["depths"]))]
    lists = {name: list(value) for name, value in options.items() if isinstance(value, tuple)}
    model = SwinBackbone(SwinConfig(**{**options, **lists}, drop_path_rate=0.0, out_features=stages)).eval()
    weights = {}
    for name, tensor in ours.body.state_dict().items():
        if "downsample" in name:
            name = re.sub(r"layers_(\d)", lambda m: f"layers_{int(m[1]) - 1}", name)
        name = re.sub(r"^layers_(\d)", r"swin.encoder.layers.\1", name)
        for old, new in HUGGINGFACE_NAMES.items():
            name = name.replace(old, new)
        parts = {"q_proj": 0, "k_proj": 1, "v_proj": 2} if "qkv" in name else {"": 0}
        for (part, _), piece in zip(parts.items(), tensor.chunk(len(parts))):
            weights[name.replace("qkv", part)] = piece
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all("layernorm." in name or "norms" in name for name in missing)
    model.hidden_states_norms = torch.nn.ModuleDict({stage: torch.nn.Identity() for stage in stages})
    return model


HUGGINGFACE_NAMES = {
    "patch_embed.proj": "swin.embeddings.patch_embeddings.projection",
    "patch_embed.norm": "swin.embeddings.norm",
    "attn.proj": "attention.o_proj",
    "attn.relative": "attention.relative_position_bias.relative",
    "attn.": "attention.",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}


@pytest.mark.parametrize("shift", [(0, 0), (2, 1)])
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("size", [(8, 4), (7, 10)])  # whole windows, and windows to be filled up
def test_attention_without_products_of_padding_equals_timms_steps(shift, qkv_bias, size):
    block = PadThenRollBlock(16, (8, 8), num_heads=2, window_size=4, shift_size=shift, qkv_bias=qkv_bias).eval()
    block.shift_size = shift  # timm drops it where the window is as large as the map
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    for parameter in block.attn.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    results, leaf = [], torch.randn(2, *size, 16, requires_grad=True)
    for way in (attend, attend_plainly):
        seen = way(block, leaf)
        results.append([seen, *torch.autograd.grad(seen.square().sum(), [leaf, *block.attn.parameters()])])
        with torch.no_grad():  # another way, where no gradient is asked for
            torch.testing.assert_close(way(block, leaf), seen, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def test_attention_in_bfloat16_is_as_near_as_timms_steps():
    torch.manual_seed(0)
    block = PadThenRollBlock(16, (8, 8), num_heads=2, window_size=4, shift_size=2).eval()
    x = torch.randn(2, 7, 10, 16)
    with torch.no_grad():
        exact = attend_plainly(block, x)
        with torch.autocast("cpu", torch.bfloat16):
            errors = [(way(block, x).float() - exact).abs().mean().item() for way in (attend, attend_plainly)]
    assert 0 < errors[0] < 1.2 * errors[1]


def test_dropout_of_attention_and_of_its_output_is_applied():
    torch.manual_seed(0)
    x = torch.randn(1, 8, 8, 16)
    for dropped in ({"attn_drop": 0.9}, {"proj_drop": 0.9}):
        block = PadThenRollBlock(16, (8, 8), num_heads=2, window_size=4, **dropped).train()
        assert not torch.allclose(attend(block, x), attend(block, x))
        block.eval()
        assert torch.equal(attend(block, x), attend(block, x))
        with torch.no_grad():
            assert not torch.allclose(attend(block.train(), x), attend(block.train(), x))


def test_mask_of_shifted_windows_by_hand():
    """One window of 2x2 shifted by 1 on a 2x2 map: every position came from another region, so each sees itself."""
    mask = shifted_window_mask(2, 2, (2, 2), (1, 1), torch.device("cpu"))
    assert mask.shape == (1, 4, 4)
    apart = torch.tensor([[0.0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]])
    assert torch.equal(mask[0], torch.where(apart == 1, -torch.inf, 0.0))
    mask = shifted_window_mask(4, 2, (2, 2), (1, 1), torch.device("cpu"))  # the upper window did not wrap downwards
    apart = torch.tensor([[0.0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]])
    assert torch.equal(mask[0], torch.where(apart == 1, -torch.inf, 0.0))


def test_no_attention_across_the_mask_is_a_number_too_small_to_be_calculated_with_quickly():
    mask = shifted_window_mask(8, 8, (4, 4), (2, 2), torch.device("cpu"))
    attention = (torch.randn(mask.shape) + mask).softmax(-1)
    assert attention[mask == 0].min() > 1e-6 and not attention[mask < 0].any()


def test_mask_made_without_gradients_serves_training():
    shifted_window_mask.cache_clear()
    backbone, images = build(SWIN), torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        backbone(images)
    backbone(images)[-1].sum().backward()
    assert not [name for name in backbone.state_dict() if "mask" in name or name.endswith("position_index")]


@torch.no_grad()
def test_copies_and_batches_do_not_change_the_maps():
    backbone, images = build(SWIN), torch.randn(3, 3, 50, 70)
    expected = backbone(images)[-1]
    torch.testing.assert_close(copy.deepcopy(backbone)(images[1:2])[-1], expected[1:2])


@pytest.mark.parametrize("kind", ["file", "folder", "pth", "original"])
@torch.no_grad()
def test_local_weights_fill_every_stage(kind, tmp_path):
    """Made by timm's whole network; "original" names things as Swin's authors do."""
    whole = timm.create_model(SWIN.name, num_classes=7, **SWIN.options)
    state = whole.state_dict()
    paths = {"file": "w.safetensors", "folder": "model.safetensors", "pth": "w.pth", "original": "original.pth"}
    path = tmp_path / paths[kind]
    if kind == "original":
        renamed = {n.replace("layers.1.downsample", "layers.0.downsample"): t for n, t in state.items()}
        renamed = {n.replace("head.fc.", "head."): t for n, t in renamed.items()}
        torch.save({"model": renamed}, path)
    elif kind == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    source = tmp_path if kind == "folder" else path
    backbone = build(replace(SWIN, pretrained=str(source)), pad_then_roll=False)
    images = torch.randn(1, 3, 224, 224)
    expected = whole.eval().forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    torch.testing.assert_close(backbone(images)[-1], expected[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["swinv2", "convnext", "resnet"])
def test_other_families_load_their_own_files(name, tmp_path):
    config = SMALL[name]
    options = {key: value for key, value in config.options.items() if key != "out_indices"}
    save_file(timm.create_model(config.name, **options).state_dict(), tmp_path / "model.safetensors")
    build(replace(config, pretrained=str(tmp_path)))


@pytest.mark.filterwarnings("ignore::UserWarning:timm.layers.interpolate")
def test_tables_of_another_window_are_resized(tmp_path):
    save_file(timm.create_model(SWIN.name, **SWIN.options).state_dict(), tmp_path / "w.safetensors")
    config = replace(SWIN, options={**SWIN.options, "window_size": 6}, pretrained=str(tmp_path / "w.safetensors"))
    table = build(config).body["layers_0"].blocks[0].attn.relative_position_bias_table
    assert table.shape == (121, 2) and table.abs().sum() > 0


def test_files_that_do_not_fit_say_so(tmp_path):
    state = timm.create_model(SWIN.name, **SWIN.options).state_dict()
    path = tmp_path / "w.safetensors"
    for change, message in [
        ({"layers.0.blocks.0.norm1.weight": None}, "layers_0.blocks.0.norm1.weight is missing"),
        ({"surprise": torch.zeros(1)}, "surprise has no place"),
        ({"layers.0.blocks.0.norm1.weight": torch.zeros(17)}, r"\(17,\), not \(16,\)"),
        ({"layers.0.blocks.0.norm1.weight": torch.full((16,), float("nan"))}, "not finite"),
        ({"layers.5.blocks.0.attn.relative_position_bias_table": torch.zeros(9, 2)}, "does not fit"),
    ]:
        save_file({n: t for n, t in {**state, **change}.items() if t is not None}, path)
        with pytest.raises(ValueError, match=message):
            build(replace(SWIN, pretrained=str(path)))


def test_files_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match=r"broken\.safetensors"):
        build(replace(SWIN, pretrained=str(broken)))
    code = tmp_path / "code.pth"
    torch.save({"model": {"weight": torch.nn.Linear(1, 1)}}, code)  # pickles a class: refused, not run
    with pytest.raises(ValueError, match=r"code\.pth"):
        build(replace(SWIN, pretrained=str(code)))
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        build(replace(SWIN, pretrained=str(tmp_path / "absent.pth")))
    with pytest.raises(FileNotFoundError, match=r"empty.*model\.safetensors or pytorch_model\.bin"):
        (tmp_path / "empty").mkdir()
        build(replace(SWIN, pretrained=str(tmp_path / "empty")))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"'none\.such'.*vision\.pretrained=/path/to"):
        build(replace(SWIN, pretrained="none.such"))


def test_networks_that_cannot_be_stepped_are_refused():
    with pytest.raises(ValueError, match="no chain of stages"):
        build(VisionConfig(name="vit_tiny_patch16_224"))
    with pytest.raises(ValueError, match=r"near it: .*swin"):
        build(VisionConfig(name="swin_tny"))
    with pytest.raises(ValueError, match=r"'convnext_atto' does not take .*'embed_dim': 16.*unexpected keyword"):
        build(replace(SWIN, name="convnext_atto"))


def test_drop_path_rises_to_the_configured_rate():
    rates = [m.drop_prob for m in build(replace(SWIN, drop_path=0.3)).modules() if type(m).__name__ == "DropPath"]
    assert rates[0] < rates[-1] and rates[-1] == pytest.approx(0.3)
