"""CoupAlign: its parts against formulas written out, the whole network's shapes and gradients, and that it learns."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import tiny_config
from test_lavt import BACKBONES, TINY, make_inputs
from torch import nn

import magnet
from magnet import losses, recipes
from magnet.config import AlignmentConfig, CoupAlignConfig, GroundingConfig, LanguageConfig
from magnet.data import collate, training_set
from magnet.losses import TERMS
from magnet.models.mask_generator import MaskGenerator
from magnet.models.sentence_mask import WEIGHTINGS, SentenceMaskAlignment
from magnet.models.word_pixel import WordPixelAttention
from magnet.objective import Objective
from magnet.workbench import benchmark

OWN = CoupAlignConfig(num_word_heads=4, num_proposals=5, width=8, num_layers=2, num_heads=2, feedforward=24)
SMALL = replace(TINY, method="coupalign", coupalign=OWN)
EXCHANGES = ("both", "pixels", "last", "none")


def build(config=SMALL, seed: int = 0, opened: bool = True) -> nn.Module:
    """`opened`: the words' gates, closed in a fresh network, are open, so that words do read pixels."""
    torch.manual_seed(seed)
    model = magnet.build_model(config)
    for side in model.text_sides.values() if opened else []:
        nn.init.constant_(side.gate, 0.5)
    return model


def small(**own):
    return replace(SMALL, coupalign=replace(OWN, **own))


def all_losses(outputs: dict, masks: torch.Tensor) -> torch.Tensor:
    return sum(TERMS[name](outputs, {"masks": masks}) for name in ("cross_entropy", "dice", "pixel_contrast"))


# --- parts ------------------------------------------------------------------------------------------------------------


def test_words_read_pixels_as_the_librarys_attention_does():
    torch.manual_seed(0)
    ours = WordPixelAttention(channels=12, word_width=16, num_heads=4)
    nn.init.constant_(ours.gate, 0.7)
    theirs = nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True)
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    with torch.no_grad():
        for kind in ("query", "key", "value"):
            getattr(theirs, f"{kind[0]}_proj_weight").copy_(getattr(ours, kind).weight)
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.randn(16), ours.value.bias]))  # keys': no effect
    words, pixels = torch.randn(2, 5, 16), torch.randn(2, 12, 3, 4)
    tokens = pixels.flatten(2).transpose(1, 2)
    read, attention = theirs(ours.norm(words), tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(ours(words, pixels), words + math.tanh(0.7) * read)
    torch.testing.assert_close(ours.attention(words, pixels), attention)


def test_the_words_gate_starts_closed_and_learns():
    side = WordPixelAttention(channels=12, word_width=16, num_heads=4)
    words, pixels = torch.randn(2, 5, 16), torch.randn(2, 12, 3, 4)
    changed = side(words, pixels)
    assert torch.equal(changed, words)
    changed.square().sum().backward()
    assert side.gate.grad != 0 and all(p.grad.eq(0).all() for name, p in side.named_parameters() if name != "gate")
    nn.init.constant_(side.gate, 0.1)
    side(words, pixels).square().sum().backward()
    assert all(p.grad.any() for p in side.parameters())


def test_every_query_reads_every_pixel_and_knows_where_it_is():
    torch.manual_seed(0)
    generator = MaskGenerator(6, 8, num_proposals=5, num_layers=2, num_heads=2, feedforward=16).eval()
    pixels = torch.randn(2, 6, 3, 4)
    queries = generator(pixels)
    assert queries.shape == (2, 5, 8) and (queries[:, 0] - queries[:, 1]).abs().max() > 1e-3
    changed = pixels.clone()
    changed[0, :, 2, 3] += 1
    moved = generator(changed) - queries
    assert moved[0].abs().amax(1).min() > 1e-5 and moved[1].abs().max() < 1e-6
    assert (generator(pixels.flip(3)) - queries).abs().max() > 1e-4, "attention alone would not see a mirror"


@pytest.mark.parametrize("weighting, soft", [*((one, False) for one in WEIGHTINGS), ("sigmoid", True)])
def test_sentence_mask_alignment_by_formula(weighting, soft):
    torch.manual_seed(0)
    part = SentenceMaskAlignment(width=4, word_width=6, num_proposals=3, weighting=weighting, soft=soft)
    proposals, queries, sentence = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 4), torch.randn(2, 6)
    logits, weights = part(proposals, queries, sentence)
    kernel, bias = part.classifier.weight[:, :, 0, 0].tolist(), part.classifier.bias.tolist()
    for row in range(2):
        norm = normed((sentence[row, :4] if weighting == "none" else part.sentence(sentence[row])).tolist())
        fits = [sum(a * b for a, b in zip(normed(queries[row, n].tolist()), norm)) / math.sqrt(4) for n in range(3)]
        if weighting == "softmax":
            expected = [math.exp(f) / sum(math.exp(g) for g in fits) for f in fits]
        elif weighting == "none":
            expected = [1.0] * 3
        else:
            expected = [1 / (1 + math.exp(-f)) for f in fits]
        assert weights[row].tolist() == pytest.approx(expected, abs=1e-4)
        for y in range(2):
            for x in range(2):
                drawn = (proposals.sigmoid() if soft else proposals)[row, :, y, x].tolist()
                maps = [expected[n] * drawn[n] for n in range(3)]
                maps = [sum(maps)] if weighting == "sum" else maps
                for label in range(2):
                    value = sum(k * m for k, m in zip(kernel[label], maps)) + bias[label]
                    assert logits[row, label, y, x].item() == pytest.approx(value, abs=1e-4)


def normed(values: list[float]) -> list[float]:
    """A fresh LayerNorm."""
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    return [(v - mean) / math.sqrt(variance + 1e-5) for v in values]


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vision", BACKBONES, ids=lambda vision: vision.name)
@torch.no_grad()
def test_outputs_have_the_promised_shapes(vision):
    model = build(replace(SMALL, vision=vision)).eval()
    images, token_ids, token_mask = make_inputs()
    outputs = model(images, token_ids, token_mask)
    assert outputs["mask_logits"].shape == (2, 75, 101) and outputs["class_logits"].shape == (2, 2, 75, 101)
    assert torch.equal(outputs["mask_logits"], outputs["class_logits"][:, 1] - outputs["class_logits"][:, 0])
    assert outputs["mask_features"].shape == (2, 8, 19, 26) and outputs["aux_mask_logits"] == []
    assert outputs["proposal_logits"].shape == (2, 5, 19, 26) and outputs["proposal_weights"].shape == (2, 5)
    assert ((outputs["proposal_weights"] > 0) & (outputs["proposal_weights"] < 1)).all()
    assert [m.shape[1] for m in outputs["stage_features"]] == model.vision.channels
    assert outputs["word_features"].shape == (2, 7, 16) and torch.equal(outputs["token_mask"], token_mask)
    again = model.decode(model.encode(images, token_ids, token_mask))
    assert torch.equal(again["mask_logits"], outputs["mask_logits"])


LANGUAGES = [
    LanguageConfig(name="roberta", options={**TINY.language.options, "max_position_embeddings": 40}),
    LanguageConfig(
        name="distilbert", options={"vocab_size": 50, "dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 32}
    ),
]


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_other_language_encoders(language):
    model = build(replace(SMALL, language=language))
    model(*make_inputs())["mask_logits"].square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@torch.no_grad()
def test_proposals_are_products_of_queries_and_pixels():
    """And whatever their number, the logits of a class are one product: the convolution adds the queries up."""
    model, seen = build().eval(), {}
    model.mask_generator.register_forward_hook(lambda module, args, output: seen.update(queries=output))
    model.sentence_mask.register_forward_hook(lambda module, args, output: seen.update(logits=output[0]))
    outputs = model(*make_inputs())
    pixels, queries = outputs["mask_features"], seen["queries"]
    by_hand = [(queries[1, 3] * pixels[1, :, y, x]).sum() for y in (0, 11) for x in (4, 25)]
    torch.testing.assert_close(outputs["proposal_logits"][1, 3][[0, 0, 11, 11], [4, 25, 4, 25]], torch.stack(by_hand))
    weighted = outputs["proposal_weights"][:, :, None] * queries  # (B,N,width)
    classifier = model.sentence_mask.classifier
    filters = classifier.weight[:, :, 0, 0] @ weighted  # (B,2,width)
    by_filter = torch.einsum("bkc,bchw->bkhw", filters, pixels) + classifier.bias[:, None, None]
    torch.testing.assert_close(seen["logits"], by_filter, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("word_pixel", EXCHANGES)
@torch.no_grad()
def test_other_images_and_padding_do_not_change_an_answer(word_pixel):
    model = build(small(word_pixel=word_pixel)).eval()
    images, token_ids, token_mask = make_inputs(batch=3)
    together = model(images, token_ids, token_mask)
    for row, length in enumerate((7, 5, 3)):
        one = slice(row, row + 1)
        alone = model(images[one], token_ids[one, :length], token_mask[one, :length])
        for name in ("mask_logits", "proposal_logits", "proposal_weights"):
            torch.testing.assert_close(together[name][one], alone[name], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_sentences_share_their_picture():
    model = build().eval()
    images, (token_ids, token_mask) = make_inputs()[0], make_inputs(batch=6)[1:]
    token_mask[:, 0] = 1  # the last sentences would have no word
    shared, repeated = model(images, token_ids, token_mask), model(images.repeat(3, 1, 1, 1), token_ids, token_mask)
    assert shared["proposal_weights"].shape == (6, 5)
    torch.testing.assert_close(shared["mask_logits"], repeated["mask_logits"], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_both_sides_read_what_was_there_before_the_exchange():
    model, seen = build().eval(), {}
    model.fusions["0"].register_forward_hook(lambda module, args, output: seen.update(image=args))
    model.text_sides["0"].register_forward_hook(lambda module, args, output: seen.update(text=args, words=output))
    layer = model.language.encoder.encoder.layer[1]  # the next group's first
    layer.register_forward_pre_hook(lambda module, args: seen.update(next=args[0]))
    model(*make_inputs())
    assert seen["image"][0] is seen["text"][1] and seen["image"][1] is seen["text"][0]
    assert seen["next"] is seen["words"] and not torch.equal(seen["words"], seen["text"][0])


@pytest.mark.parametrize(
    "word_pixel, pixels_read, words_read",
    [("both", "0123", "0123"), ("pixels", "0123", ""), ("last", "3", ""), ("none", "", "")],
)
def test_who_reads_whom(word_pixel, pixels_read, words_read):
    model = build(small(word_pixel=word_pixel, num_word_heads=4 if words_read else 3)).eval()
    assert "".join(model.fusions) == pixels_read and "".join(model.text_sides) == words_read
    assert "".join(model.gates) == ("012" if len(pixels_read) > 1 else "")
    images, token_ids, token_mask = make_inputs()
    one, other = (model.encode(images, ids, token_mask) for ids in (token_ids, token_ids.flip(0)))
    changed = [not torch.equal(a, b) for a, b in zip(one["stage_features"], other["stage_features"])]
    assert changed == [str(stage) in pixels_read for stage in range(4)]
    if "0" not in pixels_read:  # then the backbone runs as if there were no words
        torch.testing.assert_close(one["pixel_features"], model.vision(images)[-1])
    seen = [model.encode(x, token_ids, token_mask)["word_features"] for x in (images, images.flip(0))]
    assert torch.equal(*seen) == (not words_read)
    answers = [model(images, ids, token_mask)["mask_logits"] for ids in (token_ids, token_ids.flip(0))]
    assert (answers[0] - answers[1]).abs().max() > 1e-5, "the sentence always weighs the proposals"


@pytest.mark.parametrize("num_stages", [2, 3, 5])
@pytest.mark.parametrize("word_pixel", EXCHANGES)
def test_every_parameter_gets_a_gradient(num_stages, word_pixel):
    """So training on several processes needs no search for unused ones."""
    options = {**TINY.vision.options, "depths": (1,) * num_stages, "num_heads": (2,) * num_stages}
    config = small(word_pixel=word_pixel)
    model = build(replace(config, vision=replace(SMALL.vision, options=options)), opened=False)
    outputs = model(*make_inputs())
    assert outputs["mask_logits"].shape == (2, 75, 101)
    all_losses(outputs, torch.ones(2, 75, 101)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    for side in model.text_sides.values():
        assert side.gate.grad != 0, "the last one, too: through [CLS]"


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("num_proposals", [1, 7])
def test_weightings_and_numbers_of_proposals_train(weighting, num_proposals):
    model = build(small(weighting=weighting, num_proposals=num_proposals))
    outputs = model(*make_inputs())
    assert outputs["proposal_logits"].shape[1] == outputs["proposal_weights"].shape[1] == num_proposals
    assert model.sentence_mask.classifier.in_channels == (1 if weighting == "sum" else num_proposals)
    if weighting == "softmax":
        torch.testing.assert_close(outputs["proposal_weights"].sum(1), torch.ones(2))
    all_losses(outputs, torch.ones(2, 75, 101)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_bfloat16_autocast_trains():
    model, inputs = build(), make_inputs()
    masks = torch.ones(2, 75, 101)
    masks[:, :40] = 0
    with torch.autocast("cpu", torch.bfloat16):
        loss = all_losses(model(*inputs), masks)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_checkpointing_changes_no_gradient():
    gradients = []
    for gradient_checkpointing in (False, True):
        model = build(replace(SMALL, gradient_checkpointing=gradient_checkpointing))
        inputs = make_inputs()
        torch.manual_seed(2)
        model(*inputs)["mask_logits"].square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


@torch.no_grad()
def test_few_pixels_mean_nothing_with_area():
    model = build(replace(SMALL, no_target="area")).eval()
    nn.init.zeros_(model.sentence_mask.classifier.weight)
    model.sentence_mask.classifier.bias.copy_(torch.tensor([1.0, 0.0]))  # background everywhere
    assert (model(*make_inputs())["mask_logits"] == -10).all()


@pytest.mark.parametrize(
    "own, message",
    [
        ({"word_pixel": "words"}, r"coupalign\.word_pixel='words' is not one of both, pixels, last, none"),
        ({"weighting": "mean"}, r"coupalign\.weighting='mean' is not one of sigmoid, softmax, sum, none"),
        ({"word_pixel": "none", "weighting": "none"}, "nothing reads the sentence"),
        ({"num_proposals": 0}, r"coupalign\.num_proposals=0: at least 1"),
        ({"num_layers": 0}, r"coupalign\.num_layers=0: at least 1"),
        ({"num_heads": 0}, r"coupalign\.num_heads=0: at least 1"),
        ({"feedforward": -1}, r"coupalign\.feedforward=-1: at least 1"),
        ({"width": 6}, r"coupalign\.width=6 must be a multiple of 4"),
        ({"num_heads": 3}, r"coupalign\.width=8 must be a multiple of 4 and of num_heads=3"),
        ({"num_word_heads": 3}, r"coupalign\.num_word_heads=3 does not divide the words' width, 16"),
    ],
)
def test_settings_it_cannot_have_are_refused(own, message):
    with pytest.raises(ValueError, match=message):
        build(small(**own))


def test_a_head_for_no_target_is_refused():
    with pytest.raises(ValueError, match="no_target='head' needs MagNet's query; with CoupAlign take 'area'"):
        build(replace(SMALL, no_target="head"))


# --- training ---------------------------------------------------------------------------------------------------------


def tiny_coupalign(**optim):
    """The tests' network on 64 px scenes, so that the last stage has more than a single pixel."""
    config = tiny_config(**optim)
    model = replace(config.model, method="coupalign", coupalign=OWN)
    terms = {**config.losses, "pixel_contrast": 0.1}
    return replace(config, model=model, data=replace(config.data, image_size=64), losses=terms)


@pytest.mark.parametrize("passes", [1, 2])
def test_grounding_and_alignment_train_beside_it(passes):
    config = replace(
        tiny_coupalign(), grounding=GroundingConfig(ratio=0.5, num_layers=1, passes=passes),
        alignment=AlignmentConfig(num_samples=16),
    )  # fmt: skip
    torch.manual_seed(0)
    objective = Objective(config)
    for side in objective.model.text_sides.values():
        nn.init.constant_(side.gate, 0.5)
    items = training_set(config.data, config.model.language.vocabulary, seed=0)
    terms, statistics = objective(collate([items[index] for index in range(4)]))
    assert list(terms) == ["cross_entropy", "dice", "pixel_contrast", "grounding", "pixel_pixel", "pixel_text"]
    assert statistics["grounding_hidden_tokens"] > 0
    reached = [objective.model.text_sides["0"].key.weight, objective.model.fusions["0"].mix.weight]
    for name in ("grounding", "pixel_pixel", "pixel_text"):
        gradients = torch.autograd.grad(terms[name], reached, retain_graph=True)
        assert all(gradient.abs().max() > 0 for gradient in gradients), name
    losses.weighted_sum(objective.weights, terms).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


def test_training_learns_a_few_pictures_by_heart(run_root):
    config = tiny_coupalign(num_steps=80, val_every=80, val_expressions=None, lr=5e-3, batch_size=12)
    data = replace(config.data, fresh=False, sentences="all", train_split="testA", val_split="testA", image_size=32)
    run = magnet.fit(replace(config, data=data), progress=False)
    lines = [line for line in run.log() if "loss" in line]
    assert list(lines[0]["raw"]) == ["cross_entropy", "dice", "pixel_contrast"]
    for name in lines[0]["raw"]:
        values = [line["raw"][name] for line in lines]
        assert sum(values[-10:]) < 0.5 * sum(values[:10]), name
    assert run.log()[-1]["validation"]["oIoU"] > 70


@pytest.mark.parametrize("word_pixel", ["both", "pixels", "last"])  # weights alone take far longer
def test_it_learns_which_of_two_objects_a_word_means(word_pixel):
    """One picture, two words, two masks: impossible for a network that does not read the words."""
    config = small(word_pixel=word_pixel)
    model = build(replace(config, vision=replace(SMALL.vision, drop_path=0.0)), opened=False)
    model.language.eval()  # no dropout
    images, masks = torch.zeros(2, 3, 64, 64), torch.zeros(2, 64, 64)
    images[:, 0, 8:24, 8:24], images[:, 1, 40:56, 36:60] = 2.0, 2.0
    masks[0, 8:24, 8:24], masks[1, 40:56, 36:60] = 1.0, 1.0
    token_ids, token_mask = torch.tensor([[2, 5, 3], [2, 6, 3]]), torch.ones(2, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(200):  # half of the seeds need 20; the word is found late by a few
        outputs = model(images, token_ids, token_mask)
        found, truth = outputs["mask_logits"] > 0, masks > 0
        overlaps = (found & truth).sum((1, 2)) / (found | truth).sum((1, 2))
        if overlaps.min() > 0.8:
            break
        loss = all_losses(outputs, masks)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert overlaps.min() > 0.8


def test_the_recipes_can_be_tried_without_files():
    config = magnet.recipe("coupalign_tiny")
    found = benchmark.dry_run(config)
    network = magnet.build_model(benchmark.offline(config.model))
    assert found["parameters"] == sum(p.numel() for p in network.parameters()) and found["training_parameters"] == 0
    base = magnet.recipe("coupalign_base")
    assert base.losses == {"cross_entropy": 1.0, "pixel_contrast": 0.1}
    assert base.model.coupalign == CoupAlignConfig(soft_proposals=True)
    assert replace(config.model, method="lavt", coupalign=CoupAlignConfig()) == recipes.refshapes_tiny_lavt().model
    assert config.optim == magnet.recipe("magnet_tiny").optim
