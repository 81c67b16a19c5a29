"""Items of the dataset against the picture and mask they come from; fresh scenes; pictures that are not as stated."""

import collections
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from magnet import refshapes
from magnet.config import DataConfig
from magnet.data import (
    ExpressionDataset,
    check_images,
    collate,
    encode,
    load_tokenizer,
    normalize,
    squash_image,
    squash_mask,
    training_set,
)
from magnet.metrics import rle_encode
from magnet.refshapes.fresh import FreshShapes

HEIGHT, WIDTH, NUM_PICTURES = 24, 36, 4
WORDS = ("red", "blue", "round", "big", "small")


@pytest.fixture
def tokenizer(tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "cup"]))
    return load_tokenizer(str(file))


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    """Two objects on each of four pictures, one with five sentences and one with a single one."""
    rng = np.random.default_rng(0)
    rows = []
    for picture in range(NUM_PICTURES):
        file = f"{picture}.png"
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(tmp_path / file)
        for ref_id, texts in ((10 * picture, [f"{word} cup" for word in WORDS]), (10 * picture + 1, ["cup"])):
            rle = rle_encode(rng.random((HEIGHT, WIDTH)) < 0.4)
            rows += [(ref_id, text, file, HEIGHT, WIDTH, rle) for text in texts]
    table = pd.DataFrame(rows, columns=["ref_id", "text", "file", "height", "width", "rle"])
    table = table.sample(frac=1, random_state=0).reset_index(drop=True)  # an object has its sentences anywhere
    table["sent_id"] = np.arange(100, 100 + len(table))
    table.attrs["images"] = str(tmp_path)
    return table


def config(**settings) -> DataConfig:
    return DataConfig(**{"image_size": 16, "num_tokens": 6} | settings)


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


def test_an_item_is_its_row(table, tokenizer, tmp_path):
    data = config(image_size=12)
    dataset = ExpressionDataset(table, data, tokenizer, training=False)
    assert len(dataset) == len(table)
    for row in table.itertuples():
        item = dataset[row.Index]
        assert item["sent_id"] == row.sent_id
        assert torch.equal(item["token_ids"][None], encode(tokenizer, [row.text], 6)[0])
        picture = Image.open(tmp_path / row.file)
        pixels = np.asarray(picture.resize((12, 12), Image.Resampling.BILINEAR)) / 255.0
        expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(item["image"].permute(1, 2, 0), expected, atol=1e-5)
        assert item["image"].dtype == item["mask"].dtype == torch.float32 and item["image"].is_contiguous()
        assert item["mask"].shape == (12, 12) and set(item["mask"].unique().tolist()) <= {0.0, 1.0}


def test_masks_are_squashed_by_the_nearest_pixel_centre():
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
    for size in (7, 16, 24, 48):  # no centre falls between two pixels, where rounding decides
        y = ((np.arange(size) + 0.5) * HEIGHT / size).astype(int)
        x = ((np.arange(size) + 0.5) * WIDTH / size).astype(int)
        np.testing.assert_array_equal(squash_mask(mask, size), mask[np.ix_(y, x)])


def test_pictures_shrink_with_antialiasing_and_grey_ones_become_rgb():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 200
    small = squash_image(Image.fromarray(stripes), 8)
    assert small.shape == (8, 8, 3) and small.dtype == np.uint8
    assert np.abs(small.astype(int)[1:-1, 1:-1] - 100).max() <= 3  # without it: stripes of 0 or 200


def test_normalize_has_imagenets_mean_at_zero():
    grey = np.tile(np.array([124, 116, 104], np.uint8), (4, 4, 1))
    assert normalize(grey).abs().max() < 0.02
    assert normalize(np.full((4, 4, 3), 255, np.uint8))[0, 0, 0] == pytest.approx((1 - 0.485) / 0.229, abs=1e-5)


# One sentence per object and epoch


def test_training_takes_objects_and_every_sentence_comes_equally_often(table, tokenizer):
    dataset = ExpressionDataset(table, config(), tokenizer, training=True)
    num_objects = table["ref_id"].nunique()
    assert len(dataset) == num_objects
    texts = collections.defaultdict(collections.Counter)
    for number in range(400 * num_objects):
        row = dataset.row(number)
        texts[number % num_objects][(table["ref_id"][row], table["text"][row])] += 1
    for counts in texts.values():
        assert len({ref_id for ref_id, _ in counts}) == 1  # an item stays one object
        assert len(counts) in (1, 5) and min(counts.values()) > 0.6 * max(counts.values())


def test_the_sentence_depends_on_seed_epoch_and_object_alone(table, tokenizer):
    def rows(dataset, seed_table):
        return {seed_table["ref_id"][row]: seed_table["sent_id"][row] for row in map(dataset.row, numbers)}

    num_objects = table["ref_id"].nunique()
    numbers = range(3 * num_objects, 4 * num_objects)  # epoch 3
    drawn = rows(ExpressionDataset(table, config(), tokenizer, training=True, seed=1), table)
    assert rows(ExpressionDataset(table, config(), tokenizer, training=True, seed=1), table) == drawn
    assert rows(ExpressionDataset(table, config(), tokenizer, training=True, seed=2), table) != drawn
    part = table[table["ref_id"] < 20].reset_index(drop=True)
    numbers = range(3 * 4, 4 * 4)
    kept = rows(ExpressionDataset(part, config(), tokenizer, training=True, seed=1), part)
    assert kept == {ref_id: drawn[ref_id] for ref_id in kept}  # other objects do not matter


def test_every_sentence_can_be_asked_for(table, tokenizer):
    dataset = ExpressionDataset(table, config(sentences="all"), tokenizer, training=True)
    assert [dataset.row(i) for i in range(2 * len(table))] == [*range(len(table))] * 2


def test_worker_processes_give_the_same_items(table, tokenizer):
    dataset = ExpressionDataset(table, config(), tokenizer, training=True)
    batches = [[0, 9, 25], [31, 2, 77]]  # numbers past the end belong to later epochs
    loaded = list(DataLoader(dataset, batch_sampler=batches, num_workers=2, collate_fn=collate))
    for batch, numbers in zip(loaded, batches):
        assert same(batch, collate([dataset[number] for number in numbers]))
        assert batch["images"].shape == (3, 3, 16, 16) and batch["masks"].shape == (3, 16, 16)
        assert batch["token_ids"].shape == batch["token_mask"].shape == (3, 6) and batch["sent_ids"].shape == (3,)


@pytest.mark.parametrize(("words", "expected"), [("bag", [2, 5, 6, 10, 3, 0]), ("none", [2, 3, 0, 0, 0, 0])])
def test_blind_settings_reach_the_items(table, tokenizer, words, expected):
    table["text"] = "cup blue red"
    dataset = ExpressionDataset(table, config(words=words), tokenizer, training=False)
    assert dataset[0]["token_ids"].tolist() == expected


# Texts that the token rule cannot carry


def test_an_empty_text_is_refused_by_its_sent_id(table, tokenizer):
    table.loc[3, "text"] = "\u200b"  # survives strip(), but BERT reads nothing
    with pytest.raises(ValueError, match="1 expressions hold no token: sent_id 103"):
        ExpressionDataset(table, config(), tokenizer, training=False)


def test_cut_and_unknown_texts_are_counted(table, tokenizer):
    table.loc[[1, 4], "text"] = "the kettle"
    table.loc[2, "text"] = "red " * 5
    with pytest.warns(UserWarning) as caught:
        ExpressionDataset(table, config(), tokenizer, training=False)
    said = " | ".join(str(warning.message) for warning in caught)
    assert "1 of 24 expressions are cut at 6 tokens: sent_id 102 'red red" in said
    assert "2 of 24 expressions hold only unknown words: sent_id 101 'the kettle', 104" in said


def test_no_rows_are_refused(table, tokenizer):
    with pytest.raises(ValueError, match="no expressions"):
        ExpressionDataset(table[:0], config(), tokenizer, training=False)


# Pictures that are not as stated


def break_picture(path, how: str) -> None:
    whole = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "no picture":
            path.write_bytes(b"<html>404</html>")
        case "empty":
            path.write_bytes(b"")
        case "other size":
            Image.new("RGB", (WIDTH + 1, HEIGHT)).save(path)
        case "turned":
            Image.new("RGB", (HEIGHT, WIDTH)).save(path)


BROKEN = {
    "missing": (FileNotFoundError, "does not exist"),
    "truncated": (ValueError, "not readable as an image"),
    "no picture": (ValueError, "not readable as an image"),
    "empty": (ValueError, "not readable as an image"),
    "other size": (ValueError, "is 37 x 24 pixels, instances.json says 36 x 24"),
    "turned": (ValueError, "is 24 x 36 pixels, instances.json says 36 x 24"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_picture_is_named_when_read_and_when_checked(table, tokenizer, tmp_path, how):
    assert check_images(table) == []
    break_picture(tmp_path / "2.png", how)
    dataset = ExpressionDataset(table, config(), tokenizer, training=False)
    kind, says = BROKEN[how]
    row = int(np.flatnonzero(table["file"] == "2.png")[0])
    with pytest.raises(kind, match=r"2\.png") as error:
        dataset[row]
    assert says in str(error.value)
    (problem,) = check_images(table)  # once, though several expressions share the picture
    assert says in problem and "2.png" in problem


def test_a_decompression_bomb_is_refused(table, tokenizer, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)
    with pytest.raises(ValueError, match=r"not readable as an image .*decompression bomb"):
        ExpressionDataset(table, config(), tokenizer, training=False)[0]


# Fresh scenes


@pytest.fixture(scope="module")
def fresh() -> FreshShapes:
    return FreshShapes(DataConfig(image_size=32, num_tokens=20), load_tokenizer("refshapes"), seed=3)


def test_a_fresh_item_is_an_expression_of_its_scene(fresh):
    for number, scene_number in ((0, 0), (5, 5), (6144 * 100000 + 1024 + 7, 1024 * 100000 + 7)):
        scene, item = refshapes.sample(3, scene_number, split="train", image_size=32), fresh[number]
        assert torch.equal(item["image"], normalize(scene.image)) and item["sent_id"] == number
        texts, _ = encode(fresh.tokenizer, [expression.text for expression in scene.expressions], 20)
        matching = [e for e, text in zip(scene.expressions, texts) if torch.equal(text, item["token_ids"])]
        assert any(np.array_equal(item["mask"].numpy() == 1, scene.masks[e.target]) for e in matching)


def test_a_scene_comes_six_times_each_time_with_other_words(fresh):
    items = [fresh[7 + 1024 * turn] for turn in range(6)]
    assert all(torch.equal(item["image"], items[0]["image"]) for item in items)
    assert len({tuple(item["token_ids"].tolist()) for item in items}) == 6
    assert not torch.equal(fresh[6144 + 7]["image"], items[0]["image"])


@pytest.mark.parametrize("num", [2, 3, 6])
def test_sentences_of_a_scene_can_come_together(fresh, num):
    """The same sentences with the same masks, and batches in which sentence j is about picture j mod N."""
    together = FreshShapes(replace(fresh.data, sentences_per_image=num), fresh.tokenizer, seed=3)
    for number in (7, 1024 * (6 // num) + 7):  # the seventh scenes of two blocks
        block = number // 1024 // (6 // num)
        said = [fresh[6144 * block + 7 + 1024 * turn] for turn in range(num)]
        item = together[number]
        assert torch.equal(item["image"], said[0]["image"]) and item["sent_id"][0] == number * num
        for name in ("mask", "token_ids", "token_mask"):
            assert torch.equal(item[name], torch.stack([one[name] for one in said]))
    batch = collate([together[7], together[8]])
    assert batch["images"].shape[0] == 2 and all(len(batch[n]) == 2 * num for n in ("masks", "token_ids", "sent_ids"))
    for j in range(2 * num):
        assert torch.equal(batch["masks"][j], together[7 + j % 2]["mask"][j // 2])
        assert batch["sent_ids"][j] == together[7 + j % 2]["sent_id"][j // 2]
    with pytest.raises(ValueError, match="sentences_per_image=4: scenes have 6, take 1, 2, 3 or 6"):
        FreshShapes(replace(fresh.data, sentences_per_image=4), None, seed=3)


def test_fresh_items_depend_on_seed_and_number_alone(fresh):
    again = FreshShapes(fresh.data, fresh.tokenizer, seed=3)
    assert same(again[41], fresh[41]) and same(fresh[41], again[41])
    assert not same(FreshShapes(fresh.data, fresh.tokenizer, seed=4)[41], fresh[41])
    (batch,) = DataLoader(fresh, batch_sampler=[[7, 41, 2**31 - 1]], num_workers=1, collate_fn=collate)
    assert same(batch, collate([fresh[7], fresh[41], fresh[2**31 - 1]]))


def test_plain_attributes_come_first(fresh):
    eased = FreshShapes(replace(fresh.data, easy_first=6144), fresh.tokenizer, seed=3)
    kinds = [{expression.kind for expression in eased.scene(number).expressions} for number in range(0, 1100, 4)]
    plain = [found == {"attribute"} for found in kinds]
    assert all(plain[:5]) and 15 < sum(plain[100:150]) < 35 and not any(plain[256:])
    assert same(eased[6144], fresh[6144])


def test_easy_kinds_are_those_that_were_named(fresh):
    eased = FreshShapes(replace(fresh.data, easy_first=10**6, easy_kinds=("location", "superlative")), None, seed=3)
    assert {said.kind for number in range(20) for said in eased.scene(number).expressions} == {
        "location",
        "superlative",
    }
    with pytest.raises(ValueError, match=r"no kind \['place'\]; there are attribute, location"):
        FreshShapes(replace(fresh.data, easy_kinds=("place",)), None, seed=3)


def test_training_set_chooses_between_fresh_and_stored(tmp_path):
    data = training_set(DataConfig(fresh=True, image_size=32), "refshapes", seed=0)
    assert isinstance(data, FreshShapes)
    with pytest.raises(ValueError, match="only RefShapes can draw fresh scenes, not 'refcoco'"):
        training_set(DataConfig(fresh=True, name="refcoco"), "refshapes", seed=0)
