"""Notes: nothing that was written is lost, whoever else writes and whatever happens to the file."""

import multiprocessing
import os
import subprocess
import sys

import pytest

from magnet.explore.notes import Note, Notes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "explore" / "notes.json"


def test_a_note_is_there_after_a_restart(path):
    Notes(path).write(7, "two cups", ["merged", "ask", "merged"])
    notes = Notes(path)
    assert dict(notes) == {7: Note("two cups", ("merged", "ask"))} and notes.all_tags() == ["ask", "merged"]
    notes.write(7, "")
    assert len(Notes(path)) == 0


def test_notes_without_a_file_live_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes = Notes()
    notes.write(1, "here")
    assert notes[1].text == "here" and not list(tmp_path.iterdir())


def test_two_kernels_keep_each_others_notes(path):
    first, second = Notes(path), Notes(path)
    first.write(1, "mine")
    second.write(2, "yours")
    first.write(3, "again")
    assert {key: note.text for key, note in Notes(path).items()} == {1: "mine", 2: "yours", 3: "again"}


def test_two_texts_on_one_expression_are_both_kept(path):
    first, second = Notes(path), Notes(path)
    first.write(1, "mine", ["a"])
    kept = second.write(1, "yours", ["b"])
    assert kept == Notes(path)[1] == Note("mine\nyours", ("b", "a"))
    second.write(1, "yours alone", ["b"])  # it has seen the other text and takes it out
    assert Notes(path)[1] == Note("yours alone", ("b",))


def write_many(path, start):
    notes = Notes(path)
    for number in range(start, start + 8):
        notes.write(number, f"note {number}")


def test_kernels_that_write_at_the_same_time_lose_nothing(path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(path, start)) for start in (0, 100, 200)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(Notes(path)) == 24


ENDLESS = """
import itertools, sys
from magnet.explore.notes import Notes
notes = Notes(sys.argv[1])
for number in itertools.count():
    notes.write(number, "x" * 2000)
    print(number, flush=True)
"""


def test_a_kernel_that_is_killed_while_it_writes_loses_nothing_that_was_written(path):
    kernel = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, text=True)
    written = [int(kernel.stdout.readline()) for _ in range(10)]
    kernel.kill()
    written += map(int, kernel.stdout.read().split())
    kernel.wait()
    notes = Notes(path)
    assert set(written) <= set(notes) and all(note.text == "x" * 2000 for note in notes.values())
    notes.write(-1, "after it")  # the lock of a dead kernel holds nobody up
    assert Notes(path)[-1].text == "after it"


@pytest.mark.parametrize("damage", ['{"1": {"text": "cut of', "[1]", '{"one": {}}', '{"1": {"text": 5}}', '{"1": 2}'])
def test_a_file_that_cannot_be_read_is_kept_aside(path, damage):
    path.parent.mkdir()
    for aside in ("notes.damaged.json", "notes.damaged-2.json"):
        path.write_text(damage)
        with pytest.warns(UserWarning, match="cannot be read"):
            notes = Notes(path)
        notes.write(5, "new")
        assert path.with_name(aside).read_text() == damage
        assert Notes(path)[5].text == "new"


def test_a_file_damaged_while_it_is_open_is_kept_aside_as_well(path):
    notes = Notes(path)
    notes.write(1, "first")
    path.write_text("{")
    with pytest.warns(UserWarning, match="cannot be read"):
        notes.write(2, "second")
    assert path.with_name("notes.damaged.json").read_text() == "{"
    assert {key: note.text for key, note in Notes(path).items()} == {1: "first", 2: "second"}
    assert "delete it" not in notes.problem and "notes.damaged.json" in notes.problem


def test_a_folder_and_endless_nesting_in_the_files_place_are_set_aside(path):
    path.mkdir(parents=True)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert not Notes(path)
    path.write_text("[" * 200_000)
    with pytest.warns(UserWarning, match=r"kept as .*damaged-2\.json"):
        assert not Notes(path)


def test_a_write_that_fails_leaves_file_and_notes_as_they_were(path, monkeypatch):
    notes = Notes(path)
    notes.write(1, "kept")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        notes.write(1, "lost")
    assert notes[1].text == "kept" and Notes(path)[1].text == "kept"
