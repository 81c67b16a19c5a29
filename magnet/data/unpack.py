"""Files out of a downloaded zip, which is hostile until checked: no path leaves its folder, no links, no bombs."""

import io
import lzma
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from magnet.data.disk import explained, require_room

CHUNK = 1 << 16  # bytes
ENTRY = 200  # bytes that a zip's table of contents may take for each member: 46 and the name
PLACE = ".unpacking"


def unpack(
    archive: Path,
    folder: Path,
    wanted: Sequence[str],
    check: Callable[[Path], object] = lambda file: None,
    limit: int = 2 << 30,
    num_members: int = 1000,
) -> None:
    """The members whose names match one of `wanted` (as in a shell), put into `folder` without their own folders.

    All are unpacked, found whole and given to `check`, which raises ValueError for a file that must not be kept, before
    the first is put in place; what is there under the same name is replaced. One process at a time may unpack into a
    folder: what one that was killed has left there is removed.
    Raises ValueError, with `folder` as it was, for an archive that is no zip or damaged, that has no member for one of
    `wanted` or two of one name, wherever any member is a link, an encrypted file or a path that leaves the folder, and
    where there are more than `num_members` or all together unpack to more than `limit` bytes. Raises OSError where the
    disk is full or has too little room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{PLACE}*"):
        shutil.rmtree(left)
    with _opened(archive, num_members) as source, tempfile.TemporaryDirectory(dir=folder, prefix=PLACE) as place:
        members = _members(source, archive, wanted, limit, num_members)
        require_room(folder, sum(info.file_size for info in members.values()), f"what is in {archive}")
        for name, member in members.items():
            _copy(source, member, Path(place) / name)
            check(Path(place) / name)
        for name in members:
            (Path(place) / name).replace(folder / name)


def holds(wanted: Sequence[str], limit: int = 2 << 30, num_members: int = 1000) -> Callable[[Path], None]:
    """A check for `fetch`: an archive that `unpack` would take, with every wanted member whole by its checksum."""

    def check(archive: Path) -> None:
        with _opened(archive, num_members) as source:
            for member in _members(source, archive, wanted, limit, num_members).values():
                with source.open(member) as packed:
                    while packed.read(CHUNK):
                        pass

    return check


class _Careful(io.BufferedReader):
    """Never reads much at once: zipfile asks for a whole table of contents, and makes objects of all of it."""

    def __init__(self, archive: Path, most: int):
        super().__init__(io.FileIO(archive))
        self.most = most

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > self.most:
            raise zipfile.BadZipFile(f"its table of contents has {size:,} bytes, more than {self.most:,}")
        return super().read(size)


@contextmanager
def _opened(archive: Path, num_members: int) -> Iterator[zipfile.ZipFile]:
    """The zip; whatever its libraries raise for one that is damaged is a ValueError that names it."""
    try:
        with _Careful(archive, max(2 * CHUNK, ENTRY * num_members)) as stream, zipfile.ZipFile(stream) as source:
            yield source
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise ValueError(f"{archive} is no zip, or damaged ({error}); delete it and fetch it again") from error
    except OSError as error:
        if error.errno is None:  # bz2 has no error of its own
            raise ValueError(f"{archive} is damaged ({error}); delete it and fetch it again") from error
        raise


def _copy(source: zipfile.ZipFile, member: zipfile.ZipInfo, place: Path) -> None:
    left = f"nothing was unpacked from {source.fp.name}, which is kept; with more room the same command goes on"
    with explained(lambda: left), source.open(member) as packed, place.open("wb") as file:
        shutil.copyfileobj(packed, file, CHUNK)


def _members(
    source: zipfile.ZipFile, archive: Path, wanted: Sequence[str], limit: int, num_members: int
) -> dict[str, zipfile.ZipInfo]:
    """File name -> wanted member; every member is checked."""
    found, seen = {}, set()
    if (number := len(source.infolist())) > num_members:
        raise ValueError(f"{archive} is refused: it has {number:,} members, more than {num_members:,}")
    if (size := sum(info.file_size for info in source.infolist())) > limit:
        raise ValueError(f"{archive} is refused: it unpacks to {size:,} bytes, more than {limit:,}")
    for info in source.infolist():
        if problem := _problem(info):
            raise ValueError(f"{archive} is refused: {info.orig_filename!r} {problem}; nothing was unpacked")
        path = PurePosixPath(info.filename)
        if info.is_dir() or "__MACOSX" in path.parts or not any(path.match(pattern) for pattern in wanted):
            continue
        if path.name.casefold() in seen:  # as disks of some systems see names
            raise ValueError(f"{archive} is refused: {path.name!r} comes more than once; nothing was unpacked")
        seen.add(path.name.casefold())
        found[path.name] = info
    for pattern in wanted:
        if not any(PurePosixPath(name).match(pattern) for name in found):
            raise ValueError(f"{archive} holds no {pattern}, only {source.namelist()[:5]}; nothing was unpacked")
    return found


def _problem(info: zipfile.ZipInfo) -> str | None:
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name or "\0" in name:
        return "leaves its folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if info.flag_bits & 1:
        return "is encrypted"
    return None
