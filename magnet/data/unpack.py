"""Files out of a downloaded zip, which is hostile until checked: no path leaves its folder, no links, no bombs."""

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath


def unpack(
    archive: Path,
    folder: Path,
    wanted: Sequence[str],
    check: Callable[[Path], object] = lambda file: None,
    limit: int = 2 << 30,
) -> None:
    """The members whose names match one of `wanted` (as in a shell), put into `folder` without their own folders.

    All are unpacked, found whole and given to `check`, which raises ValueError for a file that must not be kept, before
    the first is put in place; what is there under the same name is replaced.
    Raises ValueError, with `folder` as it was, for an archive that is no zip or damaged, that has no member for one of
    `wanted` or two of one name, wherever any member is a link, an encrypted file or a path that leaves the folder, and
    where all together unpack to more than `limit` bytes. Raises OSError where the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as source, tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking") as place:
            members = _members(source, archive, wanted, limit)
            for name, member in members.items():
                with source.open(member) as packed, (Path(place) / name).open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
                check(Path(place) / name)
            for name in members:
                (Path(place) / name).replace(folder / name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{archive} is no zip, or damaged ({error}); delete it and fetch it again") from error


def _members(source: zipfile.ZipFile, archive: Path, wanted: Sequence[str], limit: int) -> dict[str, zipfile.ZipInfo]:
    """File name -> wanted member; every member is checked."""
    found, seen = {}, set()
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
