"""Hostile and damaged REFER files, and the cached table."""

import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from refer_toy import Toy


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path)


class Bomb:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_imports_is_refused_before_it_runs(toy, tmp_path, protocol):
    toy.refs.append(Bomb(f"touch {tmp_path}/exploded"))
    with pytest.raises(ValueError, match=r"refs\(me\).p is refused: it wants to import .*system"):
        toy.write(protocol).read()
    assert not (tmp_path / "exploded").exists() and not (toy.folder / ".cache").exists()


def test_even_a_harmless_import_is_refused(toy):
    toy.refs[0]["ref_id"] = np.int64(0)
    with pytest.raises(ValueError, match="it wants to import numpy"):
        toy.write().read()


@pytest.mark.parametrize("name", ["refs(me).p", "instances.json", "refs(me).json"])
def test_truncated_files_are_named_with_a_remedy(toy, name):
    toy.write()
    if name == "refs(me).json":
        (toy.folder / "refs(me).p").unlink()
        (toy.folder / name).write_text(json.dumps(toy.refs))
    whole = (toy.folder / name).read_bytes()
    for length in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        (toy.folder / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged or cut short") as error:
            toy.read()
        assert str(toy.folder / name) in str(error.value) and "data/README.md" in str(error.value)


def test_noise_in_a_pickle_never_escapes_as_another_error(toy):
    """Every outcome of a hundred damaged pickles is a table or a ValueError."""
    toy.write()
    file, rng = toy.folder / "refs(me).p", np.random.default_rng(0)
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    for _ in range(100):
        noisy = whole.copy()
        noisy[rng.integers(len(whole), size=3)] = rng.integers(256, size=3)
        file.write_bytes(noisy.tobytes())
        try:
            toy.read(cache=False)
        except ValueError as error:
            assert "refs(me).p" in str(error)


@pytest.mark.parametrize("content", ["[]", '{"images": []}', '{"images": [{"id": "a"}]}', "5", '"x"'])
def test_json_of_another_form_is_named(toy, content):
    (toy.write().folder / "instances.json").write_text(content)
    with pytest.raises(ValueError, match=r"instances.json.* (has no list|lacks)"):
        toy.read()
    toy.write()
    (toy.folder / "refs(me).p").write_bytes(pickle.dumps({"not": "a list"}))
    with pytest.raises(ValueError, match="holds no list of refs"):
        toy.read()


# The cache


def cache_of(toy: Toy) -> Path:
    return toy.folder / ".cache" / "me-hole.parquet"


def test_the_cached_table_is_the_same_and_is_used(toy, monkeypatch):
    first = toy.write().read()
    monkeypatch.setattr("magnet.data.refer.load_sources", lambda file: pytest.fail("the source was read again"))
    second = toy.read()
    pd.testing.assert_frame_equal(first, second)
    assert first.attrs == second.attrs
    assert [path.name for path in cache_of(toy).parent.iterdir()] == ["me-hole.parquet"]  # no temporary file is left


def test_a_changed_source_is_noticed(toy):
    toy.write().read()
    before = (toy.folder / "refs(me).p").stat()
    toy.refs[0]["sentences"][0]["raw"] = "Cup left"  # of the same length
    toy.write()
    assert (toy.folder / "refs(me).p").stat().st_size == before.st_size
    assert toy.read()["text"][0] == "Cup left"
    toy.images[0]["file_name"] = "eight.jpg"
    toy.write()
    assert toy.read()["file"][0] == "eight.jpg"


def test_a_newer_format_is_not_trusted(toy, monkeypatch):
    toy.write().read()
    monkeypatch.setattr("magnet.data.refer.FORMAT", 10**6)
    monkeypatch.setattr("magnet.data.refer.add_tags", lambda table: table.assign(new=1))
    assert "new" in toy.read()


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "other"])
def test_a_damaged_cache_is_made_anew(toy, damage):
    expected, file = toy.write().read(), cache_of(toy)
    whole = file.read_bytes()
    pieces = {"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"x" * 500}
    if damage == "other":
        pd.DataFrame({"a": [1]}).to_parquet(file)  # somebody else's: replaced without a word
        pd.testing.assert_frame_equal(toy.read(), expected)
    else:
        file.write_bytes(pieces[damage])
        with pytest.warns(UserWarning, match=r"me-hole.parquet is damaged .* made anew"):
            pd.testing.assert_frame_equal(toy.read(), expected)
    assert len(pd.read_parquet(file)) == 3


def test_a_failing_disk_costs_only_the_cache(toy, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.warns(UserWarning, match="not cached.*No space left"):
        assert len(toy.write().read()) == 3
    assert not cache_of(toy).exists()


def test_a_field_of_mixed_types_costs_only_the_cache(toy):
    toy.refs[0]["sentences"][0]["hops"], toy.refs[0]["sentences"][1]["hops"] = "two", 2
    with pytest.warns(UserWarning, match="not cached"):
        assert toy.write().read()["hops"].tolist() == ["two", 2, 0]


def test_a_flipped_bit_in_the_cache_never_changes_a_mask(toy):
    """Page checksums: every column but the footer's own text is as it was, or the table is made anew."""
    expected, file = toy.write().read(), cache_of(toy)
    whole, rng = np.frombuffer(file.read_bytes(), np.uint8), np.random.default_rng(0)
    footer = int.from_bytes(whole[-8:-4].tobytes(), "little") + 8
    for position in rng.integers(4, len(whole) - footer, 40):
        flipped = whole.copy()
        flipped[position] ^= 1 << rng.integers(8)
        file.write_bytes(flipped.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pd.testing.assert_frame_equal(toy.read(), expected)


def test_a_read_only_source_is_cached_elsewhere(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    toy.write().folder.chmod(0o555)
    try:
        expected = toy.read()
        assert not (toy.folder / ".cache").exists() and list((tmp_path / "user").rglob("me-hole.parquet"))
        pd.testing.assert_frame_equal(toy.read(), expected)
    finally:
        toy.folder.chmod(0o755)
