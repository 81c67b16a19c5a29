"""MagNet as a whole: shapes, independence of batch and padding, which gradients flow, sizes it can and cannot have."""

from dataclasses import replace

import pytest
import torch
from test_lavt import BACKBONES, TINY, make_inputs

import magnet
from magnet.losses import TERMS
from magnet.models.decoders import resize
from magnet.models.language import say_groups
from magnet.models.positions import sine_position

SMALL = replace(
    TINY, method="magnet", fusion="cam", decoder_width=16, num_heads=2, num_points=2, pixel_decoder_layers=2,
    pixel_decoder_feedforward=24, decoder_layers=4, decoder_feedforward=24,
)  # fmt: skip
FUSIONS = ("pwam", "pwam_matched", "cam")


def build(config=SMALL, seed: int = 0, opened: bool = True) -> torch.nn.Module:
    """`opened`: text gates that a fresh network keeps closed are drawn at random, so that words do read pixels."""
    torch.manual_seed(seed)
    model = magnet.build_model(config)
    for side in getattr(model, "text_sides", []) if opened else []:
        for parameter in side.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def all_logits(outputs: dict) -> torch.Tensor:
    return torch.stack([*outputs["aux_mask_logits"], outputs["mask_logits"]])


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("vision", BACKBONES, ids=lambda vision: vision.name)
@torch.no_grad()
def test_outputs_have_the_promised_shapes(vision, fusion):
    model = build(replace(SMALL, vision=vision, fusion=fusion)).eval()
    images, token_ids, token_mask = make_inputs()
    outputs = model(images, token_ids, token_mask)
    assert outputs["mask_logits"].shape == (2, 19, 26) and outputs["mask_features"].shape == (2, 16, 19, 26)
    assert [tuple(logits.shape) for logits in outputs["aux_mask_logits"]] == [(2, 19, 26)] * 4
    assert [m.shape[1] for m in outputs["stage_features"]] == model.vision.channels
    assert outputs["word_features"].shape == (2, 7, 16) and "class_logits" not in outputs
    again = model.decode(model.encode(images, token_ids, token_mask))
    assert torch.equal(again["mask_logits"], outputs["mask_logits"])


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, mask_detail=4), TINY], ids=["magnet", "detail", "lavt"])
@torch.no_grad()
def test_sentences_share_their_picture(config):
    """Two pictures, six sentences: sentence j is about picture j mod 2."""
    model = build(config).eval()
    images, (token_ids, token_mask) = make_inputs()[0], make_inputs(batch=6)[1:]
    token_mask[:, 0] = 1  # the last sentences would have no word
    shared, repeated = model(images, token_ids, token_mask), model(images.repeat(3, 1, 1, 1), token_ids, token_mask)
    assert all_logits(shared).shape == all_logits(repeated).shape
    assert (all_logits(shared) - all_logits(repeated)).abs().max() < 1e-4
    with pytest.raises(ValueError, match="5 sentences do not divide among 2 pictures"):
        model(images, token_ids[:5], token_mask[:5])


@pytest.mark.parametrize("vision", BACKBONES, ids=lambda vision: vision.name)
def test_detail_makes_masks_as_fine_as_every_second_pixel(vision):
    model = build(replace(SMALL, vision=vision, mask_detail=4))
    images, token_ids, token_mask = make_inputs()  # a height and width that no stride divides
    outputs = model(images, token_ids, token_mask)
    assert outputs["mask_logits"].shape == (2, 38, 52) and outputs["mask_features"].shape == (2, 16, 19, 26)
    all_logits(outputs).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in model.detail.parameters())
    with torch.no_grad():  # without what it adds, the first mask is that of the published network, made finer
        model.query_decoder.detail_embedding.weight.zero_(), model.query_decoder.detail_embedding.bias.zero_()
        plain = build(replace(SMALL, vision=vision)).eval()
        plain.load_state_dict({name: value for name, value in model.state_dict().items() if "detail" not in name})
        coarse, fine = (all_logits(one(images, token_ids, token_mask))[0] for one in (plain, model.eval()))
        assert torch.allclose(fine, resize(coarse[:, None], (38, 52))[:, 0], atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_other_images_and_padding_do_not_change_an_answer(fusion):
    model = build(replace(SMALL, fusion=fusion)).eval()
    images, token_ids, token_mask = make_inputs(batch=3)
    together = all_logits(model(images, token_ids, token_mask))
    for row, length in enumerate((7, 5, 3)):
        one = slice(row, row + 1)
        alone = all_logits(model(images[one], token_ids[one, :length], token_mask[one, :length]))
        assert (together[:, one] - alone).abs().max() < 1e-3  # of logits up to 1; in float64 it would be 3e-13


@torch.no_grad()
def test_both_sides_read_what_was_there_before_the_exchange():
    model, seen = build().eval(), {}
    model.image_sides[0].register_forward_hook(lambda module, args, output: seen.update(image=args))
    model.text_sides[0].register_forward_hook(lambda module, args, output: seen.update(text=args))
    model(*make_inputs())
    assert seen["image"][0] is seen["text"][1] and seen["image"][1] is seen["text"][0]


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, TINY], ids=["magnet", "lavt"])
def test_positions_stand_where_pixels_meet_words_and_nowhere_else(config):
    plain, placed = (build(replace(config, pixel_positions=on)) for on in (False, True))
    seen = {}
    for name, network in (("plain", plain), ("placed", placed)):
        fusion = (network.image_sides if hasattr(network, "image_sides") else network.fusions)[0]
        fusion.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
        network.gates[0].register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({f"{name} gate": inputs[0]})
        )
        network.encode(*make_inputs())
    torch.testing.assert_close(seen["placed"], seen["plain"] + sine_position(seen["plain"]))
    torch.testing.assert_close(seen["placed gate"], seen["plain gate"])


def test_words_read_pixels_only_through_the_text_side():
    images, token_ids, token_mask = make_inputs()
    for fusion in FUSIONS:
        model = build(replace(SMALL, fusion=fusion)).eval()
        words = [model.encode(x, token_ids, token_mask)["word_features"] for x in (images, images.flip(0))]
        assert torch.equal(*words) == (fusion != "cam")


@pytest.mark.parametrize("text_side", ["live", "released"])
def test_which_gradients_reach_text_side_and_language_encoder(text_side):
    model = build(replace(SMALL, text_side=text_side), opened=False)
    all_logits(model(*make_inputs())).square().mean().backward()
    assert model.language.encoder.embeddings.word_embeddings.weight.grad.any()
    for side in model.text_sides:
        assert bool(side.gate.outer.weight.grad.any()) == (text_side == "live")
        assert not side.query.weight.grad.any()  # the gate is still closed


def test_an_opened_text_side_carries_gradients_from_the_words_to_the_pixels():
    model = build()
    outputs = model.encode(*make_inputs())
    outputs["word_features"].square().sum().backward()
    for side in model.text_sides:
        assert all(p.grad.any() for p in (side.query.weight, side.key.weight, side.gate.inner.weight))
    assert next(model.vision.parameters()).grad.any()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_gets_a_gradient(fusion):
    """So training on several processes needs no search for unused ones."""
    model = build(replace(SMALL, fusion=fusion))
    outputs, batch = model(*make_inputs()), {"masks": torch.ones(2, 75, 101)}
    (TERMS["mask_bce"](outputs, batch) + TERMS["mask_dice"](outputs, batch)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_bfloat16_autocast_trains():
    model, inputs = build(), make_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(*inputs)
        loss = sum(TERMS[name](outputs, {"masks": torch.ones(2, 75, 101)}) for name in ("mask_bce", "mask_dice"))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_checkpointing_changes_no_gradient():
    gradients = []
    for gradient_checkpointing in (False, True):
        model = build(replace(SMALL, gradient_checkpointing=gradient_checkpointing)).train()
        inputs = make_inputs()
        torch.manual_seed(2)
        all_logits(model(*inputs)).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_fusions_differ_in_nothing_but_the_exchange():
    shared = ("vision.", "language.", "gates.", "pixel_decoder.", "query_decoder.")
    models = [build(replace(SMALL, fusion=fusion)) for fusion in FUSIONS]
    names = [{name for name in model.state_dict() if name.startswith(shared)} for model in models]
    assert names[0] == names[1] == names[2]
    plain, matched, cam = (sum(p.numel() for p in model.parameters()) for model in models)
    assert plain < 0.8 * cam and abs(matched - cam) < 0.01 * cam


@pytest.mark.parametrize("num_layers, groups", [(2, "[1, 1, 0, 0]"), (6, "[2, 2, 1, 1]")])
def test_language_layers_that_do_not_divide_by_the_stages_are_reported_once(num_layers, groups, caplog):
    say_groups.cache_clear()
    options = {**SMALL.language.options, "num_hidden_layers": num_layers}
    uneven = replace(SMALL, language=replace(SMALL.language, options=options))
    for config in (SMALL, uneven, uneven):  # a WARNING is seen by everyone who did not set up logging otherwise
        model = build(config)
    said = [(record.levelname, record.message) for record in caplog.records if record.name.startswith("magnet")]
    assert said == [("WARNING", f"the language layers, {num_layers} for 4 stages, make groups of {groups}")]
    assert str(model.language.group_sizes) == groups
    assert model(*make_inputs())["mask_logits"].isfinite().all()


@pytest.mark.parametrize("num_stages, groups", [(2, [2, 2]), (3, [2, 1, 1]), (5, [1, 1, 1, 1, 0])])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_as_many_groups_and_scales_as_stages(num_stages, groups, fusion):
    options = {**SMALL.vision.options, "depths": (1,) * num_stages, "num_heads": (2,) * num_stages}
    model = build(replace(SMALL, fusion=fusion, vision=replace(SMALL.vision, options=options)))
    assert model.language.group_sizes == groups and len(model.image_sides) == num_stages
    assert len(model.pixel_decoder.project) == num_stages and len(model.query_decoder.scale_embedding) == num_stages - 1
    outputs = model(*make_inputs())
    assert outputs["mask_logits"].shape == (2, 19, 26) and len(outputs["aux_mask_logits"]) == SMALL.decoder_layers
    all_logits(outputs).square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fusion": "cma"}, "fusion='cma' is not one of pwam, pwam_matched, cam"),
        ({"text_side": "dead"}, "text_side='dead' is not one of live, released"),
        ({"gate_init": "zeros"}, "gate_init='zeros' is not one of normal, zero"),
        ({"decoder_width": 0}, "decoder_width=0: at least 1"),
        ({"decoder_width": 18}, "decoder_width=18 must be a multiple of 4"),
        ({"decoder_width": 16, "num_heads": 3}, "num_heads=3"),
        ({"vision": replace(BACKBONES[2], options={"dims": (6, 12, 24, 48), "depths": (1,) * 4})}, "splits channels"),
        ({"vision": replace(BACKBONES[2], options={**BACKBONES[2].options, "out_indices": (3,)})}, "has one stage"),
    ],
)
def test_sizes_it_cannot_have_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build(replace(SMALL, **change))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_it_learns_which_of_two_objects_a_word_means(fusion):
    """One picture, two words, two masks: impossible for a network that does not read the words."""
    model = build(replace(SMALL, fusion=fusion, vision=replace(SMALL.vision, drop_path=0.0)), opened=False)
    model.language.eval()  # no dropout
    images, masks = torch.zeros(2, 3, 64, 64), torch.zeros(2, 64, 64)
    images[:, 0, 8:24, 8:24], images[:, 1, 40:56, 36:60] = 2.0, 2.0
    masks[0, 8:24, 8:24], masks[1, 40:56, 36:60] = 1.0, 1.0
    token_ids, token_mask = torch.tensor([[2, 5, 3], [2, 6, 3]]), torch.ones(2, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):  # until it has learnt
        outputs = model(images, token_ids, token_mask)
        found, truth = outputs["mask_logits"] > 0, masks[:, ::4, ::4] > 0
        overlaps = (found & truth).sum((1, 2)) / (found | truth).sum((1, 2))
        if overlaps.min() > 0.8:
            break
        loss = sum(TERMS[name](outputs, {"masks": masks}) for name in ("mask_bce", "mask_dice"))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert overlaps.min() > 0.8


@pytest.mark.parametrize("field, value", [("pyramid", ()), ("mask_detail", -1)])
def test_sizes_that_no_part_can_have(field, value):
    with pytest.raises(ValueError, match=f"{field} has -?[01]: at least [01] is needed"):
        magnet.build_model(replace(SMALL, **{field: value}))


def test_settings_of_another_method_are_said_to_do_nothing(caplog):
    magnet.build_model(replace(TINY, fusion="cam", mask_detail=8))
    assert "method='lavt' does not read fusion, mask_detail: these settings change nothing" in caplog.text
    caplog.clear()
    magnet.build_model(SMALL)
    assert "does not read" not in caplog.text
