"""The RefCOCO family, fetched: annotations by data set, and of COCO's pictures those that are spoken of.

    download(["refcoco"], "data")                               # refs and instances, 54 MB
    download_images("data", ["refcoco"], splits=["val"])        # the 1,500 pictures of val

Everything is found whole before it is put in place; what is there already and whole is not fetched again; two processes
take turns.
"""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from filelock import FileLock, Timeout
from tqdm import tqdm

from magnet.data.dataset import read_image
from magnet.data.family import SPLIT_BY
from magnet.data.fetch import checked, fetch
from magnet.data.files import load_instances, load_refs
from magnet.data.refer import read_refer
from magnet.data.unpack import holds, unpack

UNC = "bvisionweb1.cs.unc.edu/licheng/referit/data"  # silent since 2022; the Internet Archive has copies
COCO = ("http://images.cocodataset.org", "https://s3.amazonaws.com/images.cocodataset.org")
END_OF_JPEG = b"\xff\xd9"
PICTURE = re.compile(r"COCO_(train|val)2014_\d{12}\.jpg")
NUM_IMAGES = 82_783  # in train2014.zip
PICTURE_LIMIT, GREFCOCO_LIMIT, IMAGES_LIMIT = 20_000_000, 200_000_000, 15_000_000_000  # bytes; no size was published
GIVEN_UP = 20  # so many pictures, none of which a mirror gives: nobody serves them


class Archive(NamedTuple):
    """A zip as it was published. check, limit: see `fetch`; wanted: what of it is unpacked."""

    file: str
    urls: tuple[str, ...]
    check: Callable[[Path], None]
    wanted: tuple[str, ...]
    limit: int


def _unc(name: str, captured: str, size: int, digest: str) -> Archive:
    first = f"https://{UNC}/{name}.zip"
    copies = (f"https://web.archive.org/web/{when}id_/{first}" for when in (captured, "2"))  # "2": whichever is found
    wanted = ("instances.json", *(f"refs({split_by}).p" for split_by in SPLIT_BY[name]))
    return Archive(f"{name}.zip", (*copies, first), checked("sha256", digest, size), wanted, size)


GREFCOCO = ("instances.json", "grefs(unc).json")
ARCHIVES = {
    "refcoco": _unc("refcoco", "20220413011718", 53_993_993,
                    "7f924bb7ed8dc4568058e4ff626281918d56e5206f4c868c5a80f088f38c8bf0"),
    "refcoco+": _unc("refcoco+", "20220413011656", 45_613_210,
                     "5f1238112d63199e68da54a28f201471909b21ded7ed79a57d51b4c1443c6b45"),
    "refcocog": _unc("refcocog", "20220413012904", 56_712_951,
                     "3d1f7e5b2ff2205940bf59de55f861f5f2cc1403fb980669933a7f9af1aa8211"),
    "grefcoco": Archive(
        "grefcoco.zip",
        ("https://drive.usercontent.google.com/download?id=1WXifNjJ8gKQAcPQWcCkCdNYvRrkS6nbQ&export=download&confirm=t",),
        holds(GREFCOCO), GREFCOCO, GREFCOCO_LIMIT,  # published without a checksum: the zip's own, and what it holds
    ),
}  # fmt: skip
IMAGES = Archive(
    "train2014.zip", tuple(f"{host}/zips/train2014.zip" for host in COCO),
    checked("md5", "0da8c0bd3d6becc4dcb32757491aca88"), ("COCO_train2014_*.jpg",),
    IMAGES_LIMIT,
)  # fmt: skip


def download(names: Sequence[str], root: Path, mirrors: Sequence[str] = (), progress: bool = True) -> list[Path]:
    """The annotation files of data sets, unpacked to <root>/<name>/ and read once.

    Those that are there and can be read are left alone.
    mirrors: addresses of folders that are asked first, for <mirror>/<name>.zip.
    Raises ValueError for an unknown name or files that are not what they should be, OSError where nobody gives them.
    """
    if unknown := [name for name in names if name not in ARCHIVES]:
        raise ValueError(f"no data set {', '.join(unknown)}; there are {', '.join(ARCHIVES)}")
    with _alone(root):
        return [file for name in names for file in _annotations(name, root, mirrors, progress)]


def _annotations(name: str, root: Path, mirrors: Sequence[str], progress: bool) -> list[Path]:
    archive, folder = ARCHIVES[name], root / name
    files = [folder / file for file in archive.wanted]
    if all(_can_be_read(file) for file in files):
        return files
    urls = [*_at(mirrors, archive.file), *archive.urls]
    packed = fetch(urls, root / archive.file, archive.check, progress, archive.limit)
    try:
        unpack(packed, folder, archive.wanted, _read_once)
    except ValueError:
        packed.unlink()  # or it would be found again
        raise
    packed.unlink()
    return files


def _can_be_read(file: Path) -> bool:
    try:
        _read_once(file)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _read_once(file: Path) -> None:
    load_instances(file, lambda record: False) if file.name == "instances.json" else load_refs(file)


def download_images(
    root: Path, names: Sequence[str], splits: Sequence[str] | None = None, mirrors: Sequence[str] = (),
    num_threads: int = 16, progress: bool = True, repair: bool = False,
) -> int:  # fmt: skip
    """The pictures that these data sets' `splits` (None: all) speak of, to <root>/images/train2014; how many were new.

    mirrors: addresses that are asked first, for <mirror>/train2014/<file>. Each picture is decoded and has the stated
    size before it counts; one that is there is fetched anew if it was cut short, with `repair` if anything is wrong.
    Raises OSError that says how many could not be had, with the first of them; the others stay.
    """
    folder = root / "images" / "train2014"
    with _alone(root):
        needed = _lacking(folder, needed_images(root, names, splits), num_threads, repair)
        hosts, failures = [*mirrors, *COCO], []
        tries = _in_parallel(lambda file: _picture(hosts, folder / file, *needed[file]), needed, num_threads)
        with closing(tries), tqdm(total=len(needed), unit="picture", disable=not progress) as bar:
            for number, failure in enumerate(tries, start=1):
                bar.update()
                failures += [failure] if failure else []
                if len(failures) == number == GIVEN_UP:
                    raise OSError(f"the first {GIVEN_UP} pictures could not be had, given up: {failures[0]}")
    if failures:
        left = f"{len(failures)} of {len(needed)} pictures could not be had; the same command tries these again"
        raise OSError(f"{left}. The first: {failures[0]}")
    return len(needed)


def _lacking(folder: Path, needed: dict, num_threads: int, repair: bool) -> dict[str, tuple[int, int]]:
    """Those of `needed` that are not there, or not whole."""
    whole = _in_parallel(lambda file: _is_whole(folder / file, *needed[file], repair), needed, num_threads)
    return {file: needed[file] for file, is_whole in zip(needed, whole) if not is_whole}


def _is_whole(file: Path, height: int, width: int, thorough: bool) -> bool:
    """Decoding shows it, at 5 ms a picture; a JPEG that was cut short lacks its last two bytes, seen in 0.02 ms."""
    if not file.exists():
        return False
    if not thorough and _ends(file):
        return True
    try:
        read_image(file, height, width)
    except ValueError:
        return False
    return True


def _ends(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 2))
        return stream.read() == END_OF_JPEG


def download_all_images(root: Path, mirrors: Sequence[str] = (), progress: bool = True) -> Path:
    """COCO's whole train2014.zip, 13 GB, unpacked to <root>/images/train2014; gives that folder. Nothing is
    fetched where all its pictures are there.

    mirrors: addresses that are asked first, for <mirror>/zips/train2014.zip.
    """
    folder, packed = root / "images" / "train2014", root / IMAGES.file
    with _alone(root):
        if sum(1 for _ in folder.glob(*IMAGES.wanted)) < NUM_IMAGES:
            urls = [f"{mirror.rstrip('/')}/zips/{IMAGES.file}" for mirror in mirrors]
            fetch([*urls, *IMAGES.urls], packed, IMAGES.check, progress, IMAGES.limit)
            unpack(packed, folder, IMAGES.wanted, limit=20 << 30, num_members=100_000)
        packed.unlink(missing_ok=True)
    return folder


def present(root: Path) -> list[str]:
    """The family's data sets that are in `root`; ValueError where there is none."""
    if names := [name for name in ARCHIVES if (root / name / "instances.json").exists()]:
        return names
    raise ValueError(f"{root} holds none of {', '.join(ARCHIVES)}; fetch one: magnet data download refcoco")


def needed_images(root: Path, names: Sequence[str], splits: Sequence[str] | None = None) -> dict[str, tuple[int, int]]:
    """File name -> height, width of every picture that these data sets' splits, in all their ways to split, speak of.

    Raises ValueError for a file name that is not one of COCO's, or where no expression is in any of `splits`.
    """
    needed, known = {}, set()
    for name, split_by in [(each, split_by) for each in names for split_by in SPLIT_BY[each]]:
        table = read_refer(root, name, split_by)
        known |= set(table["split"])
        rows = table if splits is None else table[table["split"].isin(splits)]
        sizes = rows.drop_duplicates("file")[["file", "height", "width"]].itertuples(index=False, name=None)
        needed |= {file: size for file, *size in sizes}
    if not needed:
        raise ValueError(
            f"no picture is needed by splits {', '.join(splits or ())}; there are {', '.join(sorted(known))}"
        )
    if strange := [file for file in needed if not PICTURE.fullmatch(file)]:
        raise ValueError(f"{strange[0]!r} is no name of a picture of COCO 2014; {len(strange)} such names")
    return needed


def _picture(hosts: Sequence[str], path: Path, height: int, width: int) -> str | None:
    """What kept the picture from being fetched, or None."""

    def check(file: Path) -> None:
        read_image(file, height, width)

    year = path.name.split("_")[1]
    try:
        urls = [f"{host.rstrip('/')}/{year}/{path.name}" for host in hosts]
        fetch(urls, path, check, progress=False, limit=PICTURE_LIMIT)
    except OSError as error:
        return str(error)


def _in_parallel(task: Callable, items: Iterable, num_threads: int) -> Iterator:
    """The task's results in the items' order. Few begin long before they are asked for: closed early, or at
    Ctrl-C, the rest is left."""
    waiting = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(task, item))
                if len(waiting) > 4 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _at(mirrors: Sequence[str], file: str) -> list[str]:
    return [f"{mirror.rstrip('/')}/{quote(file)}" for mirror in mirrors]


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One process at a time downloads into `root`; another waits, and finds the files there."""
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".download.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process downloads to {root}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
