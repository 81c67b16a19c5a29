"""A reader's notes and tags on single expressions, in a JSON file that no restart and no second kernel loses.

notes = Notes("results/runs/NAME/explore/notes-refcoco_unc-val.json")
notes.write(118, "two cups, the mask takes both", tags=["merged", "ask Ada"])
notes[118].text
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import dacite
from filelock import FileLock

from magnet.runs import config_from_dict, free_path, write_json


@dataclass(frozen=True)
class Note:
    """What somebody wrote about one expression."""

    text: str = ""
    tags: tuple[str, ...] = ()


class Notes(Mapping[int, Note]):
    """sent_id -> Note, of the expressions that have one.

    Every change is written at once, atomically. Before, the file is read again under a lock, so that what another
    kernel has written stays; where both changed one note, both texts are kept. A file that cannot be read is moved
    aside under another name, with a warning that `problem` repeats, and never overwritten: what this kernel has read
    of it before is written anew.

    Args: path: None keeps the notes in memory alone.
    """

    def __init__(self, path: Path | str | None = None):
        self.path = None if path is None else Path(path)
        self.problem = ""
        self._notes: dict[int, Note] = {}
        self.reread()

    def __getitem__(self, sent_id: int) -> Note:
        return self._notes[sent_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._notes)

    def __len__(self) -> int:
        return len(self._notes)

    def reread(self) -> None:
        """Take over what another kernel has written since."""
        self._notes = self._read()

    def write(self, sent_id: int, text: str, tags: Sequence[str] = ()) -> Note:
        """Change the note on one expression; without text and tags it is gone. What is kept comes back.

        Raises OSError naming the file where it cannot be written; the note is then as it was.
        """
        new = Note(text, tuple(dict.fromkeys(tags)))
        if self.path is None:
            self._notes = _changed(self._notes, sent_id, new)
            return new
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            found = self._read()
            new = _merged(self.get(sent_id, Note()), found.get(sent_id, Note()), new)
            found = _changed(found, sent_id, new)
            write_json(self.path, {str(key): asdict(note) for key, note in sorted(found.items())})
        self._notes = found
        return new

    def all_tags(self) -> list[str]:
        """Every tag that is in use, sorted."""
        return sorted({tag for note in self.values() for tag in note.tags})

    def _read(self) -> dict[int, Note]:
        if self.path is None or not self.path.exists():
            return self._notes
        try:
            found = json.loads(self.path.read_text())
            return {int(key): config_from_dict(value, Note) for key, value in found.items()}
        except (ValueError, AttributeError, TypeError, RecursionError, IsADirectoryError, dacite.DaciteError) as error:
            aside = free_path(self.path.with_suffix(f".damaged{self.path.suffix}"))
            with suppress(FileNotFoundError):  # another kernel was quicker
                self.path.rename(aside)
            self.problem = f"the notes in {self.path} cannot be read ({error}); they are kept as {aside}"
            warnings.warn(self.problem, stacklevel=4)
            return self._notes


def _changed(notes: dict[int, Note], sent_id: int, new: Note) -> dict[int, Note]:
    others = {key: note for key, note in notes.items() if key != sent_id}
    return others if new == Note() else others | {sent_id: new}


def _merged(seen: Note, found: Note, new: Note) -> Note:
    """`new`, with what somebody else has put into the file since this kernel has seen it."""
    if found in (seen, new) or found == Note():
        return new
    tags = (*new.tags, *(tag for tag in found.tags if tag not in {*new.tags, *seen.tags}))
    text = new.text if found.text in (seen.text, new.text) else "\n".join(filter(None, (found.text, new.text)))
    return Note(text, tags)
