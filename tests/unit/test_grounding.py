"""Mask Grounding: its parts by hand, what its gradient reaches, and that the mask is what it learns to read."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_config, tiny_magnet

import magnet
from magnet import losses
from magnet.config import GroundingConfig
from magnet.data import encode, load_tokenizer
from magnet.losses.grounding import MaskGrounding, describe_masks
from magnet.models.language import LanguageBackbone
from magnet.models.lavt import LAVT
from magnet.objective import Objective

ROOT = Path(__file__).parents[2]
TOKENIZER = load_tokenizer("refshapes")
COLOURS = ("red", "green", "blue")
PAINT = torch.tensor([[2.0, -2, -2], [-2, 2, -2], [-2, -2, 2]])


def build(seed: int = 0, **options):
    torch.manual_seed(seed)
    model = magnet.build_model(tiny_config().model)
    return model, MaskGrounding(GroundingConfig(**options), model, TOKENIZER)


def make_batch(num: int = 16, size: int = 64, seed: int = 0) -> dict:
    """Pictures of two squares of other colours, one left and one right; the mask says which one the sentence means."""
    generator = torch.Generator().manual_seed(seed)
    images, masks, texts = torch.zeros(num, 3, size, size), torch.zeros(num, size, size), []
    for row in range(num):
        colours = torch.randperm(len(COLOURS), generator=generator)[:2].tolist()
        for side, colour in enumerate(colours):
            y, x = torch.randint(4, size // 2 - 20, (2,), generator=generator).tolist()
            images[row, :, y : y + 16, x + side * size // 2 :][..., :16] = PAINT[colour][:, None, None]
            if side == row % 2:
                masks[row, y : y + 16, x + side * size // 2 :][:, :16] = 1
                texts.append(f"the {COLOURS[colour]} square")
    token_ids, token_mask = encode(TOKENIZER, texts, num_tokens=6)
    return {"images": images, "masks": masks, "token_ids": token_ids, "token_mask": token_mask}


def hide_colours(batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = torch.zeros_like(batch["token_ids"], dtype=torch.bool)
    hidden[:, 2] = True  # [CLS] the COLOUR
    return batch["token_ids"].masked_fill(hidden, TOKENIZER.mask_token_id), hidden


# --- what a mask is described by --------------------------------------------------------------------------------------


def test_masks_are_described_by_centre_box_and_area():
    masks = torch.zeros(3, 4, 8)
    masks[0, 1:3, 2:8] = 1
    masks[1, 3, 0], masks[1, 0, 7] = 1, 1
    masks[2] = 1
    by_hand = [[5 / 8, 2 / 4, 2.5 / 8, 1.5 / 4, 7.5 / 8, 2.5 / 4],
               [4 / 8, 2 / 4, 0.5 / 8, 0.5 / 4, 7.5 / 8, 3.5 / 4],
               [4 / 8, 2 / 4, 0.5 / 8, 0.5 / 4, 7.5 / 8, 3.5 / 4]]  # fmt: skip
    described = describe_masks(masks)
    torch.testing.assert_close(described[:, :6], 2 * torch.tensor(by_hand) - 1)
    assert described[:, 6].tolist() == [12 / 32, 2 / 32, 1.0]
    assert describe_masks(torch.zeros(1, 4, 8)).isfinite().all()


def test_pooled_pixels_are_weighted_by_what_the_mask_covers():
    model, grounding = build(mask_encoder="pooled")
    pixels, masks = torch.randn(2, model.vision.channels[-1], 2, 2), torch.zeros(2, 8, 8)
    masks[0, 0:4, 2:8] = 1  # half of the top left position, all of the top right one
    described = grounding._describe(masks, pixels)
    torch.testing.assert_close(described[0], (0.5 * pixels[0, :, 0, 0] + pixels[0, :, 0, 1]) / 1.5)
    assert described[1].eq(0).all()


# --- the loss and its gradient ----------------------------------------------------------------------------------------


def test_the_loss_is_cross_entropy_at_the_hidden_tokens():
    model, grounding = build(ratio=0.5)
    model.eval(), grounding.eval()
    batch = make_batch(4)
    hidden = grounding.hide_words(batch)
    logits = grounding.predict(model, batch, hidden)
    assert logits.shape == (int(hidden[1].sum()), len(TOKENIZER))
    total, right, place = 0.0, 0, 0
    for row, token in hidden[1].nonzero().tolist():
        truth, values = int(batch["token_ids"][row, token]), logits[place].detach().double()
        total += math.log(values.exp().sum().item()) - values[truth].item()
        right, place = right + (int(values.argmax()) == truth), place + 1
    loss, statistics = grounding(model, batch, hidden)
    assert loss.item() == pytest.approx(total / place, rel=1e-5)
    assert statistics["grounding_accuracy"].item() == pytest.approx(right / place)
    assert statistics["grounding_hidden_tokens"].item() == place / 4


@pytest.mark.parametrize("context", ["text", "image", "mask"])
@torch.no_grad()
def test_a_context_hides_what_it_promises(context):
    model, grounding = build(context=context)
    model.eval(), grounding.eval()
    batch, other = make_batch(8, seed=1), make_batch(8, seed=2)
    hidden = hide_colours(batch)
    logits = grounding.predict(model, batch, hidden)
    for part, seen in (("images", context != "text"), ("masks", context == "mask")):
        changed = grounding.predict(model, {**batch, part: other[part]}, hidden)
        assert torch.equal(changed, logits) is not seen, part
    _, full = build(context="mask")
    asked = full.eval().predict(model, batch, hidden, context=context)
    torch.testing.assert_close(asked, logits)  # the same parameters: a trained predictor can be asked with less


@torch.no_grad()
def test_neither_padding_nor_other_sentences_change_a_prediction():
    model, grounding = build()
    model.eval(), grounding.eval()
    batch = make_batch(3)
    together = grounding.predict(model, batch, hide_colours(batch))
    for row in range(3):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        alone |= {name: alone[name][:, :5] for name in ("token_ids", "token_mask")}  # [CLS] the red square [SEP]
        torch.testing.assert_close(grounding.predict(model, alone, hide_colours(alone))[0], together[row])


def test_two_passes_leave_the_clean_words_alone():
    model, grounding = build(at_least_one=True)
    batch, embedded = make_batch(4), []
    model.language.encoder.embeddings.register_forward_hook(lambda *args: embedded.append(args[-1]))
    clean = model(batch["images"], batch["token_ids"], batch["token_mask"])
    loss, _ = grounding(model, batch)
    assert len(embedded) == 2
    words = [embedded[0], clean["word_features"], *clean["stage_features"], clean["pixel_features"]]
    assert torch.autograd.grad(loss, words, allow_unused=True, retain_graph=True) == (None,) * len(words)
    (reached,) = torch.autograd.grad(loss, [embedded[1]], retain_graph=True)
    assert reached.abs().max() > 0
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in grounding.parameters())
    for part in (model.vision, model.language, model.fusions[:-1]):
        assert all(p.grad.abs().max() > 0 for p in part.parameters() if p.ndim > 1)
    assert all(p.grad is None for p in model.fusions[-1].parameters())  # the decoder's alone


def two_passes(config, context: str = "mask") -> Objective:
    """In evaluation mode, with the same words hidden at every call."""
    torch.manual_seed(0)
    objective = Objective(replace(config, grounding=GroundingConfig(ratio=0.5, context=context))).eval()
    hidden = objective.grounding.hide_words(make_batch(4))
    objective.grounding.hide_words = lambda batch: hidden
    return objective


def detailed_magnet():
    config = tiny_magnet()
    return replace(config, model=replace(config.model, mask_detail=4))


@pytest.mark.parametrize("context", ["text", "image", "mask"])
@pytest.mark.parametrize("recipe", [tiny_config, detailed_magnet])
def test_two_passes_look_at_a_picture_once_and_learn_as_if_they_looked_twice(recipe, context):
    objective, batch, looked = two_passes(config := recipe(), context), make_batch(4), []
    batch["images"] = batch["images"][:2]  # two sentences each
    parameters = [p for p in objective.parameters() if p.requires_grad]
    next(objective.model.vision.body.children()).register_forward_hook(lambda *args: looked.append(args[1][0]))
    total = losses.weighted_sum(objective.weights, objective(batch)[0])
    shared = torch.autograd.grad(total, parameters, materialize_grads=True)
    assert len(looked) == 1 + (context == "text")  # a blank picture is another one
    outputs = objective.model(batch["images"], batch["token_ids"], batch["token_mask"])
    apart = losses.compute(config.losses, outputs, batch)
    apart["grounding"], _ = objective.grounding(objective.model, batch)
    total = losses.weighted_sum(objective.weights, apart)
    for ours, theirs in zip(shared, torch.autograd.grad(total, parameters, materialize_grads=True)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_network_with_an_encoder_of_its_own_is_asked_for_it_in_both_passes():
    class Louder(LAVT):
        def encode(self, *inputs):
            asked.append(inputs[1])
            features = super().encode(*inputs)
            return {**features, "word_features": 2 * features["word_features"]}

    objective, batch, asked = two_passes(tiny_config()), make_batch(4), []
    objective.model.__class__ = Louder
    loss = objective(batch)[0]["grounding"]
    clean, hidden = asked
    assert torch.equal(clean, batch["token_ids"]) and not torch.equal(hidden, clean)
    torch.testing.assert_close(loss, objective.grounding(objective.model, batch)[0])


def test_a_network_may_give_less_than_it_looked_at():
    class Brief(LAVT):
        def forward(self, *inputs):
            return {name: value for name, value in super().forward(*inputs).items() if name != "seen"}

    objective, batch = two_passes(tiny_config()), make_batch(4)
    objective.model.__class__ = Brief
    torch.testing.assert_close(objective(batch)[0]["grounding"], objective.grounding(objective.model, batch)[0])


@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_last_layer_at_hidden_words_alone_gives_what_the_whole_predictor_gives(num_layers):
    _, grounding = build(num_layers=num_layers)
    grounding.train()  # or torch would take its fast path, which has no gradient
    tokens = torch.randn(3, 9, 16, requires_grad=True)
    unseen, hidden = torch.zeros(3, 9, dtype=torch.bool), torch.zeros(3, 6, dtype=torch.bool)
    unseen[1, 5:] = True
    hidden[0, [4, 1, 2]] = hidden[1, 3] = True  # three, one and none
    whole = grounding.predictor(tokens, src_key_padding_mask=unseen)[:, :6][hidden]
    read = grounding._read(tokens, unseen, hidden)
    torch.testing.assert_close(read, whole)
    gradients = [torch.autograd.grad(states.square().sum(), tokens)[0] for states in (whole, read)]
    torch.testing.assert_close(*gradients)
    assert grounding._read(tokens, unseen, torch.zeros_like(hidden)).shape == (0, 16)


def test_embeddings_are_tied_and_not_saved_twice():
    model, grounding = build()
    model.eval(), grounding.eval()
    own = {id(p) for p in grounding.parameters()}
    assert not own & {id(p) for p in model.parameters()}
    batch = make_batch(2)
    before = grounding.predict(model, batch, hide_colours(batch), context="text")
    with torch.no_grad():
        model.language.encoder.get_input_embeddings().weight[7] += torch.arange(16.0)  # a word of neither sentence
    after = grounding.predict(model, batch, hide_colours(batch), context="text")
    changed = (before - after).abs().amax(0) > 1e-4
    assert changed.nonzero().tolist() == [[7]]


def contributing(title: str) -> list[str]:
    """The Python of a section of CONTRIBUTING.md."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


def test_the_lines_of_contributing_attach_it_to_a_network_of_ones_own(capsys):
    def vision():
        made = torch.nn.Conv2d(3, 12, kernel_size=16, stride=16)
        made.channels = [12]
        return made

    def my_loss(network, batch):
        features = network.encode(batch["images"], batch["token_ids"], batch["token_mask"])
        return features["pixel_features"].square().mean()

    names = {
        "torch": torch, "nn": torch.nn, "MaskGrounding": MaskGrounding, "GroundingConfig": GroundingConfig,
        "load_tokenizer": load_tokenizer, "loader": [make_batch(16)], "my_loss": my_loss, "MyVision": vision,
        "MyLanguage": lambda: LanguageBackbone(tiny_config().model.language, len(TOKENIZER)),
    }  # fmt: skip
    attached, asked = contributing("Attach Mask Grounding to a new method")
    assert len(attached.splitlines()) < 20
    exec(attached, names)
    assert names["loss"] > 0 and all(
        p.grad is not None for part in ("network", "grounding") for p in names[part].parameters()
    )
    exec(asked, names)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["text", "image", "mask"]


def test_shuffled_masks_are_those_of_the_sentence_before():
    model, grounding = build(ratio=0.5)
    batch = make_batch(4)
    hidden = hide_colours(batch)
    plain, _ = grounding(model.eval(), {**batch, "masks": batch["masks"][[3, 0, 1, 2]]}, hidden)
    control = MaskGrounding(GroundingConfig(ratio=0.5, shuffled_masks=True), model, TOKENIZER)
    control.load_state_dict(grounding.state_dict())
    shuffled, _ = control(model, batch, hidden)
    assert shuffled == plain != grounding(model, batch, hidden)[0]


def test_bfloat16_autocast_gives_a_float32_loss():
    model, grounding = build(ratio=0.5, mask_encoder="pooled")
    batch = make_batch(4)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = grounding(model, batch)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad.isfinite().all() for p in [*model.language.parameters(), *grounding.parameters()])


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_encoder", ["centre", "box", "pooled"])
@pytest.mark.parametrize("case", ["nothing to hide", "nothing hidden", "empty masks"])
def test_without_hidden_words_the_loss_is_a_zero_with_a_gradient(case, mask_encoder):
    model, grounding = build(ratio=0.0 if case == "nothing hidden" else 1.0, mask_encoder=mask_encoder)
    batch = make_batch(2)
    if case == "nothing to hide":
        batch["token_ids"], batch["token_mask"] = encode(TOKENIZER, ["", ""], num_tokens=6)
    elif case == "empty masks":
        batch["masks"] = torch.zeros_like(batch["masks"])
    loss, statistics = grounding(model, batch)
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad.eq(0).all() for p in grounding.parameters())
    assert statistics["grounding_nothing_to_hide"] == (case != "nothing hidden")
    assert statistics["grounding_none_hidden"] == (case == "nothing hidden")


@pytest.mark.parametrize("mask_encoder", ["centre", "box", "pooled"])
def test_all_words_hidden_and_full_masks_are_finite_and_counted(mask_encoder):
    model, grounding = build(ratio=1.0, mask_encoder=mask_encoder)
    batch = make_batch(4)
    batch["masks"][0] = 1  # full
    batch["masks"][1] = 0  # empty: its sentence stays as it is
    loss, statistics = grounding(model, batch)
    loss.backward()
    assert loss > 0 and all(p.grad.isfinite().all() for p in grounding.parameters())
    assert statistics["grounding_all_hidden"] == 0.75 and statistics["grounding_nothing_to_hide"] == 0.25
    assert statistics["grounding_hidden_tokens"] == 0.75 * 3


def test_settings_that_do_not_fit():
    for options, message in (
        ({"mask_encoder": "center"}, "mask_encoder='center': one of centre, box, pooled"),
        ({"context": "all"}, "context='all'"),
        ({"passes": 3}, "passes=3: one of 1, 2"),
        ({"num_layers": 0}, "num_layers=0: without a layer"),
        ({"num_heads": 0}, "num_heads=0: at least 0 and 1"),
        ({"weight": -1.0}, "weight=-1.0, "),
        ({"num_heads": 3}, "num_heads=3 does not divide the words' width, 16"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**options)


# --- that it learns ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A tiny network that learnt the colours of the objects its masks mark."""
    model, grounding = build(dropout=0.0, mask_encoder="pooled")  # "centre" takes longer to learn
    parameters = [*model.parameters(), *grounding.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    for step in range(300):
        batch = make_batch(seed=step)
        loss, _ = grounding(model, batch, hide_colours(batch))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return model.eval(), grounding.eval()


@torch.no_grad()
def test_masks_of_other_pictures_make_the_loss_worse(trained):
    model, grounding = trained
    batch = make_batch(64, seed=1000)
    hidden = hide_colours(batch)
    loss, statistics = grounding(model, batch, hidden)
    assert loss < 0.3 and statistics["grounding_accuracy"] > 0.9
    shuffled, worse = grounding(model, {**batch, "masks": batch["masks"][strangers(64)]}, hidden)
    assert shuffled > loss + 0.5 and worse["grounding_accuracy"] < 0.8  # half of them still mark the right side
    opposite, worst = grounding(model, {**batch, "masks": batch["masks"].roll(1, 0)}, hidden)
    assert opposite > loss + 1 and worst["grounding_accuracy"] < 0.5  # a neighbour's marks the wrong side


def strangers(num: int) -> torch.Tensor:
    """For each row the number of another one, drawn at random."""
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    return order.roll(1)[order.argsort()]  # the row before it in that order


@torch.no_grad()
def test_image_and_mask_both_help_to_find_the_word(trained):
    model, grounding = trained
    batch = make_batch(64, seed=1001)
    hidden = hide_colours(batch)
    right = {}
    for context in ("text", "image", "mask"):
        predicted = grounding.predict(model, batch, hidden, context=context).argmax(1)
        right[context] = (predicted == batch["token_ids"][hidden[1]]).float().mean().item()
    assert right["mask"] > 0.9 > 0.7 > max(right["image"], right["text"])
