"""Measures of the embedding space against brute force and hand-made cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_config

import magnet
from magnet import runs
from magnet.config import AlignmentConfig
from magnet.workbench import embeddings as space
from magnet.workbench.embeddings import Embeddings


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make(num: int = 12, size: tuple[int, int] = (3, 4), channels: int = 5, seed: int = 0) -> Embeddings:
    generator = np.random.default_rng(seed)
    inside = generator.random((num, size[0] * size[1])) > 0.7
    inside[:, :2] = True
    return Embeddings(
        pixels=unit(generator.normal(size=(num, size[0] * size[1], channels))).astype(np.float32),
        sentences=unit(generator.normal(size=(num, channels))).astype(np.float32), inside=inside,
        sent_ids=np.arange(num) + 50, image_ids=np.arange(num) // 2, size=size,
    )  # fmt: skip


def test_retrieval_by_brute_force():
    made = make()
    table = space.describe(made)
    for row in range(12):
        similar = [float(pixel @ made.sentences[row]) for pixel in made.pixels[row]]
        order = sorted(range(12), key=lambda place: -similar[place])
        found, precisions = 0, []
        for rank, place in enumerate(order, 1):
            if made.inside[row, place]:
                found += 1
                precisions.append(found / rank)
        assert table["top1"][row] == made.inside[row, order[0]]
        assert table["average_precision"][row] == pytest.approx(np.mean(precisions))
        assert table["chance"][row] == pytest.approx(found / 12)
        own, others = made.pixels[row][made.inside[row]], made.pixels[row][~made.inside[row]]
        pairs = [a @ b for i, a in enumerate(own) for j, b in enumerate(own) if i != j]
        assert table["within"][row] == pytest.approx(np.mean(pairs), abs=1e-5)
        assert table["between"][row] == pytest.approx(np.mean([a @ b for a in own for b in others]), abs=1e-5)


def test_perfect_and_reversed_rankings():
    made = make()
    sentences = np.tile(np.eye(5, dtype=np.float32)[0], (12, 1))
    pixels = np.where(made.inside[..., None], sentences[:, None], -sentences[:, None])
    perfect = space.describe(replace(made, pixels=pixels, sentences=sentences))
    assert perfect["top1"].all() and (perfect["average_precision"] == 1).all()
    wrong = space.describe(replace(made, pixels=-pixels, sentences=sentences))
    assert not wrong["top1"].any() and (wrong["average_precision"] < perfect["average_precision"]).all()


def test_blind_ranking_gives_chance():
    table = space.describe(make(num=4000))
    assert table["top1"].mean() == pytest.approx(table["chance"].mean(), abs=0.03)


def test_objects_of_fewer_than_two_positions_are_left_out():
    made = make()
    made.inside[3] = False
    made.inside[4] = np.arange(12) == 5
    made.inside[6] = True
    assert space.describe(made)["sent_id"].tolist() == [50, 51, 52, 55, 57, 58, 59, 60, 61]
    assert math.isfinite(space.modality_gap(made)[0])


def test_the_gap_is_the_distance_of_two_means():
    made = make()
    made.inside[0] = np.arange(12) < 2
    objects = np.mean([made.pixels[row][made.inside[row]].mean(0) for row in range(12)], axis=0)
    by_hand = np.linalg.norm(objects - made.sentences.mean(0))
    gap, draws = space.modality_gap(made, num_draws=400)
    assert gap == pytest.approx(by_hand, rel=1e-5)
    assert draws.shape == (400,) and np.quantile(draws, 0.01) < gap < np.quantile(draws, 0.99) + 0.2
    opposite = replace(made, pixels=np.tile(-made.sentences.mean(0), (12, 12, 1)))
    assert space.modality_gap(opposite)[0] == pytest.approx(2 * np.linalg.norm(made.sentences.mean(0)), rel=1e-5)


def test_one_draw_of_the_gap_by_hand():
    """A draw weighs every expression by how often its picture was drawn."""
    made = make(num=6)
    _, draws = space.modality_gap(made, num_draws=1, seed=3)
    (counts,) = next(magnet.statistics.image_counts(3, 1, 3))
    rows = [row for row in range(6) for _ in range(int(counts[row // 2]))]
    objects = np.mean([made.pixels[row][made.inside[row]].mean(0) for row in rows], axis=0)
    assert draws[0] == pytest.approx(np.linalg.norm(objects - made.sentences[rows].mean(0)), rel=1e-5)


def test_strangers_are_sentences_of_other_pictures():
    made = make()
    other = made.with_strangers()
    for row in range(12):
        (owner,) = np.flatnonzero((made.sentences == other.sentences[row]).all(1))
        assert made.image_ids[owner] != made.image_ids[row]
    assert other.pixels is made.pixels


def test_measures_are_paired_with_the_first_state():
    made = make(num=40)
    better = replace(made, sentences=unit(made.sentences + 3 * made.pixels[:, 0]))  # position 0 is the object's
    table = space.measure({"before": made, "after": better, "again": made}, num_draws=500)
    rows = table.set_index(["state", "measure"])
    means = rows.drop(index="modality gap", level="measure")  # a distance this small is mostly noise, which adds to it
    assert means["value"].between(means["low"] - 1e-9, means["high"] + 1e-9).all()
    assert rows.loc["again", ["change", "change_low", "change_high"]].eq(0).all(axis=None)
    assert rows.at[("after", "average precision (%)"), "change_low"] > 0
    assert rows.at[("after", "chance (%)"), "change"] == 0
    assert rows.at[("before", "top-1 (%)"), "value"] == pytest.approx(100 * space.describe(made)["top1"].mean())


def test_the_plane_holds_points_that_lie_in_a_plane():
    made = make(num=30, channels=6)
    flat = [np.pad(part[..., :2], [(0, 0)] * (part.ndim - 1) + [(0, 4)]) for part in (made.pixels, made.sentences)]
    planar = replace(made, pixels=flat[0], sentences=flat[1])
    points = space.principal_plane(planar, num=20)
    assert points.attrs["explained"] == pytest.approx(1, abs=1e-5)
    assert points.groupby("kind").size().to_dict() == {"object": 20, "others": 20, "sentence": 20}
    xy = points[["x", "y"]].to_numpy()
    sentences = {tuple(row) for row in np.round(planar.sentences[:, :2], 5)}
    spread = np.linalg.norm(xy[:, None] - xy[None], axis=-1)  # distances survive a turn of the axes
    found = np.linalg.norm(np.array(sorted(sentences))[:, None] - np.array(sorted(sentences))[None], axis=-1)
    assert spread.max() >= found.max() - 1e-4 or len(sentences) > 20
    assert space.principal_plane(make(num=30, channels=6), num=20).attrs["explained"] < 0.9


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root, runs.ROOT = runs.ROOT, tmp_path_factory.mktemp("runs")
    config = replace(tiny_config(num_steps=4, val_every=4), alignment=AlignmentConfig())
    yield magnet.fit(config, progress=False)
    runs.ROOT = root


def test_a_checkpoint_gives_the_projection_back(trained):
    objective = space.with_trained_parts(trained)
    fresh = space.with_fresh_parts(trained, AlignmentConfig())
    stored = runs.read_tensors(trained.checkpoint)
    assert torch.equal(objective.alignment.text.weight, stored["alignment.text.weight"])
    assert not torch.equal(objective.alignment.text.weight, fresh.alignment.text.weight)
    weights = trained.load_model().state_dict()  # validated once, at the last step: best is last
    for one in (objective, fresh):
        assert all(torch.equal(value, weights[name]) for name, value in one.model.state_dict().items())
    again = space.with_fresh_parts(trained, AlignmentConfig())
    assert torch.equal(fresh.alignment.text.weight, again.alignment.text.weight)


def test_embeddings_are_those_of_the_losses(trained):
    objective = space.with_trained_parts(trained)
    made = space.embed(objective, trained.config, num_expressions=10, batch_size=4)
    whole = space.embed(objective, trained.config, num_expressions=10, batch_size=10)
    np.testing.assert_allclose(made.pixels, whole.pixels, atol=1e-5)
    assert made.pixels.shape == (10, 64, 32) and made.size == (8, 8) and made.inside.shape == (10, 64)
    np.testing.assert_allclose(np.linalg.norm(made.pixels, axis=-1), 1, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(made.sentences, axis=-1), 1, atol=1e-4)
    terms = []
    for row in range(10):  # all positions fit into the loss's samples, so its value can be computed from these
        own, others = (np.exp(made.similarity[row][where] / 0.1) for where in (made.inside[row], ~made.inside[row]))
        terms.append(-np.log(own / (own + others.sum())).mean() if len(own) else 0.0)
    data = trained.config.data
    table = magnet.data.select_split(magnet.data.read_refer(data.root), "val")
    table = table.set_index("sent_id").loc[made.sent_ids].reset_index()
    table.attrs = magnet.data.read_refer(data.root).attrs
    tokenizer = magnet.data.load_tokenizer("refshapes")
    dataset = magnet.data.ExpressionDataset(table, data, tokenizer, training=False)
    batch = magnet.data.collate([dataset[i] for i in range(10)])
    with torch.no_grad():
        outputs = objective.model(batch["images"], batch["token_ids"], batch["token_mask"])
        loss = objective.alignment(outputs, batch)["pixel_text"].item()
    assert loss == pytest.approx(np.mean(terms), rel=1e-3)


def test_without_a_projection_it_says_so(trained):
    objective = space.with_fresh_parts(trained, AlignmentConfig(pixel_text=0.0))
    with pytest.raises(ValueError, match="pixel_text above 0"):
        space.embed(objective, trained.config)
