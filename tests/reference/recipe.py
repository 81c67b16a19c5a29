"""The recipe behind the stored reference outputs: weights and inputs that anyone can rebuild from names and shapes."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch


def reference_folder() -> Path:
    """Where the reference outputs lie; skips the test where they are not at hand."""
    if "MAGNET_REFERENCE" not in os.environ:
        pytest.skip("MAGNET_REFERENCE does not name the folder of reference outputs")
    return Path(os.environ["MAGNET_REFERENCE"])


def read_shapes(name: str) -> dict:
    """{group: {tensor name: [shape, dtype]}} of a stored key list."""
    return json.loads((reference_folder() / f"{name}_state_dict.json").read_text())


def make_weights(shapes: dict, salt: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of one group, made from their names alone."""
    return {name: torch.from_numpy(_tensor(name, shape, dtype, salt)) for name, (shape, dtype) in shapes.items()}


def _tensor(name: str, shape: list[int], dtype: str, salt: int) -> np.ndarray:
    if dtype == "int64":
        return _integers(name, shape)
    a = np.random.default_rng(zlib.crc32(name.encode(), salt)).standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        a = 1 + 0.1 * np.abs(a)
    elif name.endswith("running_mean"):
        a = 0.02 * a
    elif a.ndim >= 2:
        a = a / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        a = 1 + 0.1 * a
    else:
        a = 0.02 * a
    return np.asarray(a, dtype=np.float32)


def _integers(name: str, shape: list[int]) -> np.ndarray:
    if not name.endswith("relative_position_index"):
        return np.zeros(shape, dtype=np.int64)  # num_batches_tracked
    window = round(shape[0] ** 0.5)
    rows, columns = np.divmod(np.arange(window**2), window)
    difference_rows, difference_columns = rows[:, None] - rows, columns[:, None] - columns
    return (difference_rows + window - 1) * (2 * window - 1) + difference_columns + window - 1


def make_inputs(batch: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """images (B,3,H,W) float32, token ids and token mask (B,20) int64."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, height, width), dtype=np.float32)
    token_ids = rng.integers(1000, 30522, (batch, 20))
    token_ids[:, 0] = 101
    token_mask = np.ones((batch, 20), dtype=np.int64)
    for row in range(batch):
        length = 20 - 3 * row - 2
        token_mask[row, length:] = 0
        token_ids[row, length:] = 0
        token_ids[row, length - 1] = 102
    return torch.from_numpy(images), torch.from_numpy(token_ids), torch.from_numpy(token_mask)
