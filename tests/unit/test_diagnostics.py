"""Attention maps against the arithmetic written out, and galleries that are the same every time."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import magnet
from magnet.config import LanguageConfig, ModelConfig, VisionConfig
from magnet.metrics import rle_encode
from magnet.workbench.diagnostics import answer, choose_examples, load_examples, word_attention

TINY = ModelConfig(
    vision=VisionConfig(
        name="swin_tiny_patch4_window7_224", drop_path=0.5,
        options={"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 4},
    ),
    language=LanguageConfig(
        options={"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
                 "intermediate_size": 16}
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return magnet.build_model(TINY)


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    token_mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    images = torch.randn(2, 3, 32, 64, generator=generator)
    return images, torch.randint(30, (2, 4), generator=generator) * token_mask, token_mask


def test_attention_is_the_softmax_of_scaled_products(model, batch):
    seen = []
    hook = model.fusions[1].register_forward_hook(lambda module, given, out: seen.append(given))
    maps = word_attention(model, *batch)
    hook.remove()
    (pixels, words, token_mask), part = seen[0], model.fusions[1]
    query = part.query(pixels.flatten(2).transpose(1, 2))
    query = (query - query.mean(1, keepdim=True)) / (query.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    scores = torch.einsum("bnc,btc->bnt", query, part.key(words)) / pixels.shape[1] ** 0.5
    expected = scores.masked_fill(token_mask[:, None] == 0, -torch.inf).softmax(-1)
    assert maps["fusions.1"].shape == (2, 4, 8, 4)
    torch.testing.assert_close(maps["fusions.1"].flatten(1, 2), expected.detach(), atol=1e-5, rtol=1e-4)


def test_every_stage_sums_to_one_and_skips_padding(model, batch):
    maps = word_attention(model, *batch)
    assert [tuple(m.shape[1:3]) for m in maps.values()] == [(8, 16), (4, 8), (2, 4), (1, 2)]
    for attention in maps.values():
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:3]))
        assert (attention[0, ..., 3] == 0).all()


def test_model_is_left_as_it_was(model, batch):
    model.train()
    word_attention(model, *batch)
    assert model.training
    with pytest.raises(IndexError):
        word_attention(model, batch[0], batch[1] + 1000, batch[2])  # token ids that do not exist
    assert model.training and not any(part._forward_pre_hooks for part in model.modules())


def test_a_model_without_pixel_word_attention_is_named():
    with pytest.raises(ValueError, match="Linear has no PixelWordAttention"):
        word_attention(torch.nn.Linear(2, 2), None, None, None)


def results(num_rows: int = 80) -> pd.DataFrame:
    iou = np.random.default_rng(0).random(num_rows)
    return pd.DataFrame({"sent_id": np.arange(num_rows) + 100, "image_id": np.arange(num_rows) // 2, "iou": iou})


def test_examples_come_from_their_quarters_one_per_image():
    table = results()
    chosen = choose_examples(table, 5)
    rows = table.set_index("sent_id")
    iou = {name: rows.loc[ids, "iou"].to_numpy() for name, ids in chosen.items()}
    assert all(len(set(ids)) == 5 for ids in chosen.values())
    assert iou["failures"].max() <= iou["typical"].min() and iou["typical"].max() <= iou["successes"].min()
    assert rows.loc[np.concatenate(list(chosen.values())), "image_id"].is_unique
    assert (np.diff(iou["successes"]) <= 0).all() and (np.diff(iou["failures"]) >= 0).all()


def test_examples_do_not_depend_on_the_order_of_rows():
    table = results()
    assert choose_examples(table.sample(frac=1, random_state=3), 5) == choose_examples(table, 5)


def test_examples_of_a_small_table_are_not_repeated():
    chosen = choose_examples(results(6), 8)
    assert all(len(set(ids)) == len(ids) > 0 for ids in chosen.values())


def test_load_examples_joins_both_tables(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    truth, prediction = np.eye(4, 6, dtype=bool), np.eye(4, 6, 1, dtype=bool)
    shared = {"sent_id": [7, 8], "height": 4, "width": 6, "file": "a.png", "text": ["one", "two"]}
    expressions = pd.DataFrame({**shared, "rle": rle_encode(truth)})
    expressions.attrs["images"] = str(tmp_path)
    answers = pd.DataFrame({"sent_id": [8, 7], "iou": [0.8, 0.7], "rle": rle_encode(prediction)})
    examples = load_examples(expressions, [8, 7], answers)
    assert [(e.text, e.iou) for e in examples] == [("two", 0.8), ("one", 0.7)]
    np.testing.assert_array_equal(examples[0].image, picture)
    np.testing.assert_array_equal(examples[0].truth, truth)
    np.testing.assert_array_equal(examples[0].prediction, prediction)
    assert not load_examples(expressions, [8])[0].prediction.any()


def test_answer_asks_about_the_picture_of_an_expression(tmp_path):
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.png")
    truth = np.zeros((4, 6), bool)
    truth[:, :2] = True
    row = {"sent_id": [7], "height": 4, "width": 6, "file": "a.png", "text": "left", "rle": rle_encode(truth)}
    expressions = pd.DataFrame(row)
    expressions.attrs["images"] = str(tmp_path)

    class LeftHalf:
        def set_image(self, image):
            self.shape = image.shape[:2]

        def predict(self, text):
            mask = np.zeros(self.shape, bool)
            mask[:, : 3 if text == "left" else 0] = True
            return mask, 1.0

    assert answer(LeftHalf(), expressions, 7).iou == pytest.approx(8 / 12)
    nothing = answer(LeftHalf(), expressions, 7, "right")
    assert (nothing.iou, nothing.text, nothing.prediction.sum()) == (0, "right", 0)
