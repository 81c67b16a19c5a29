"""Neighbours of wrong answers, on vectors that are known, and the vectors of a network."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ASSETS, tiny_magnet

import magnet
from magnet.data import encode, read_refer, select_split
from magnet.explore.vectors import NUM_NEIGHBOURS, sentence_vectors, wrong_neighbours
from magnet.predictor import Predictor
from magnet.workbench.embeddings import on_plane


def answers(wrong: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"error": np.where(wrong, "part", "right"), "image_id": np.arange(len(wrong))})


def test_failures_that_lie_together_have_wrong_neighbours():
    wrong = np.arange(60) < 20
    apart = np.where(wrong[:, None], [1.0, 0.0], [0.0, 1.0])
    found = wrong_neighbours(apart, answers(wrong), num_draws=50)
    assert found["value"].tolist() == [100, 0] and found["n"].tolist() == [20, 40]


def test_neighbours_by_brute_force_and_never_of_the_same_picture():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(50, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = answers(generator.random(50) < 0.3).assign(image_id=np.arange(50) // 3)
    shares = {True: [], False: []}
    for row in range(50):
        others = [i for i in range(50) if table["image_id"][i] != table["image_id"][row]]
        nearest = sorted(others, key=lambda i: -vectors[i] @ vectors[row])[:NUM_NEIGHBOURS]
        shares[table["error"][row] != "right"].append((table["error"][nearest] != "right").mean())
    found = wrong_neighbours(vectors, table, num_draws=10)
    assert found["value"].tolist() == pytest.approx([100 * np.mean(shares[True]), 100 * np.mean(shares[False])])


def test_vectors_are_the_means_of_words_that_have_met_the_picture():
    config = tiny_magnet()
    torch.manual_seed(0)
    predictor = Predictor(magnet.build_model(config.model), config.data, "refshapes")
    expressions = select_split(read_refer(ASSETS, cache=False), "val").iloc[[4, 1, 7]]
    vectors = sentence_vectors(predictor, expressions, batch_size=2)
    assert vectors.shape[0] == 3 and np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    row = expressions.iloc[2]
    predictor.set_image(f"{expressions.attrs['images']}/{row.file}")
    ids, mask = encode(predictor.tokenizer, [row.text], config.data.num_tokens)
    with torch.no_grad():
        words = predictor.model.eval().encode(predictor.image, ids, mask)["word_features"][0, : int(mask.sum())]
    mean = words.mean(0)
    np.testing.assert_allclose(vectors[2], (mean / mean.norm()).numpy(), atol=1e-5)


def test_the_plane_keeps_what_lies_in_a_plane():
    generator = np.random.default_rng(0)
    flat = generator.normal(size=(30, 2)) * [5, 2] @ np.linalg.qr(generator.normal(size=(6, 2)))[0].T
    plane = on_plane(flat + 7)
    assert plane.attrs["explained"] == pytest.approx(1)
    distances = [np.linalg.norm(points[:, None] - points, axis=-1) for points in (flat, plane.to_numpy())]
    np.testing.assert_allclose(*distances, atol=1e-9)
