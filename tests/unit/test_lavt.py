"""LAVT as a whole: shapes, independence of batch and padding, gradients, and how `build_model` finds its sizes."""

from dataclasses import replace

import pytest
import torch

import magnet
from magnet.config import LanguageConfig, ModelConfig, VisionConfig
from magnet.losses import TERMS

TINY = ModelConfig(
    vision=VisionConfig(
        name="swin_tiny_patch4_window7_224",
        options={"embed_dim": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 3},
    ),
    language=LanguageConfig(
        options={
            "vocab_size": 50,
            "hidden_size": 16,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        }
    ),
)


def build(config: ModelConfig = TINY, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return magnet.build_model(config)


def make_inputs(batch: int = 2, height: int = 75, width: int = 101, num_tokens: int = 7):
    torch.manual_seed(1)
    token_mask = (torch.arange(num_tokens) < (num_tokens - 2 * torch.arange(batch))[:, None]).long()
    return torch.randn(batch, 3, height, width), torch.randint(1, 50, (batch, num_tokens)) * token_mask, token_mask


BACKBONES = [
    TINY.vision,
    replace(TINY.vision, name="swinv2_tiny_window8_256"),
    VisionConfig(name="convnext_atto", options={"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1)}),
]


@pytest.mark.parametrize("vision", BACKBONES, ids=lambda vision: vision.name)
@torch.no_grad()
def test_outputs_have_the_promised_shapes(vision):
    model = build(replace(TINY, vision=vision)).eval()
    images, token_ids, token_mask = make_inputs()
    outputs = model(images, token_ids, token_mask)
    assert outputs["mask_logits"].shape == (2, 75, 101) and outputs["class_logits"].shape == (2, 2, 75, 101)
    assert torch.equal(outputs["mask_logits"], outputs["class_logits"][:, 1] - outputs["class_logits"][:, 0])
    assert outputs["mask_features"].shape == (2, model.vision.channels[-1] // 2, 19, 26)
    assert [m.shape[1] for m in outputs["stage_features"]] == model.vision.channels
    assert outputs["word_features"].shape == (2, 7, 16) and outputs["aux_mask_logits"] == []
    again = model.decode(model.encode(images, token_ids, token_mask))
    assert torch.equal(again["mask_logits"], outputs["mask_logits"])


@torch.no_grad()
def test_other_images_and_padding_do_not_change_an_answer():
    model = build().eval()
    images, token_ids, token_mask = make_inputs(batch=3)
    together = model(images, token_ids, token_mask)["mask_logits"]
    for row, length in enumerate((7, 5, 3)):
        one = slice(row, row + 1)
        alone = model(images[one], token_ids[one, :length], token_mask[one, :length])["mask_logits"]
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_words_and_pixels_both_matter():
    model = build().eval()
    images, token_ids, token_mask = make_inputs()
    plain = model(images, token_ids, token_mask)["mask_logits"]
    for changed in ((images, token_ids.flip(0), token_mask), (images.flip(0), token_ids, token_mask)):
        assert (model(*changed)["mask_logits"] - plain).abs().max() > 1e-3


def test_every_parameter_gets_a_gradient():
    """So training on several processes needs no search for unused ones."""
    model = build()
    model(*make_inputs())["mask_logits"].square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_bfloat16_autocast_trains():
    model, inputs = build(), make_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(*inputs)
        loss = sum(TERMS[name](outputs, {"masks": torch.ones(2, 75, 101)}) for name in ("cross_entropy", "dice"))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_checkpointing_changes_no_gradient():
    """With dropout and stochastic depth on: the second forward pass must draw the same."""
    gradients = []
    for gradient_checkpointing in (False, True):
        model = build(replace(TINY, gradient_checkpointing=gradient_checkpointing)).train()
        inputs = make_inputs()
        torch.manual_seed(2)
        model(*inputs)["mask_logits"].square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_group_norm_does_not_see_other_images():
    def first_logits(norm: str, batch: int) -> torch.Tensor:
        config = replace(TINY, decoder_norm=norm, vision=replace(TINY.vision, drop_path=0.0))
        model = build(config).train()
        model.language.eval()  # its dropout draws per batch
        images, token_ids, token_mask = make_inputs(batch=2)
        return model(images[:batch], token_ids[:batch], token_mask[:batch])["mask_logits"][0]

    torch.testing.assert_close(first_logits("group", 1), first_logits("group", 2), rtol=1e-4, atol=1e-5)
    assert (first_logits("batch", 1) - first_logits("batch", 2)).abs().max() > 1e-3


def test_zero_gate_leaves_the_backbone_as_it_was():
    model = build(replace(TINY, gate_init="zero")).eval()
    images, token_ids, token_mask = make_inputs()
    seen = []
    model.fusions[3].register_forward_hook(lambda module, args, output: seen.append(args[0]))
    model(images, token_ids, token_mask)
    torch.testing.assert_close(seen[0], model.vision(images)[-1])


@pytest.mark.parametrize("num_stages", [2, 3, 5])
def test_there_may_be_fewer_or_more_stages(num_stages):
    options = {**TINY.vision.options, "depths": (1,) * num_stages, "num_heads": (2,) * num_stages}
    model = build(replace(TINY, vision=replace(TINY.vision, options=options)))
    assert model(*make_inputs())["mask_logits"].shape == (2, 75, 101)


def test_a_single_stage_is_too_few():
    options = {**TINY.vision.options, "depths": (1,), "num_heads": (2,)}
    with pytest.raises(ValueError, match=r"vision\.name='swin_tiny_patch4_window7_224' has one stage"):
        build(replace(TINY, vision=replace(TINY.vision, options=options)))


def test_vocabulary_size_from_argument_options_or_tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "ring"]))
    options = {key: value for key, value in TINY.language.options.items() if key != "vocab_size"}
    from_file = replace(TINY.language, vocabulary=str(tmp_path / "vocab.txt"), options=options)
    for model, rows in [
        (magnet.build_model(TINY, vocab_size=60), 60),
        (magnet.build_model(TINY), 50),
        (magnet.build_model(replace(TINY, language=from_file)), 7),
    ]:
        assert model.language.encoder.get_input_embeddings().num_embeddings == rows


def test_unknown_method_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'lvat' is not one of .*lavt"):
        magnet.build_model(replace(TINY, method="lvat"))
