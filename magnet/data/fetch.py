"""One file over HTTP: from the first mirror that gives it, resumed where it stopped, checked before it counts.

    fetch(["https://one/refcoco.zip", "https://two/refcoco.zip"], path, checked("sha256", "7f92...", size=53_993_993))

What arrives lies beside `path` as .NAME.part until it has passed its check; a rename then makes it `path`.
"""

import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import requests
from tqdm import tqdm

CHUNK = 1 << 16  # bytes
TIMEOUT = (10, 30)  # seconds until a connection, and without a byte
TRIES = 4  # connections in a row that bring less than a chunk before a mirror is given up
PATIENCE = 60  # seconds: a server that asks for more is busy for good
BUSY = {408, 429, 500, 502, 503, 504}  # may pass
_pause = time.sleep


class _Refused(Exception):
    """This mirror does not give the file; another may."""


class _Broken(Exception):
    """The connection ended early; trying again may help. `wait`: seconds the server asked for."""

    def __init__(self, why: str, wait: float | None = None):
        super().__init__(why)
        self.wait = wait


def checked(kind: str, digest: str, size: int | None = None) -> Callable[[Path], None]:
    """A check for `fetch`: the file has `size` bytes and its `kind` ("sha256", "md5") is `digest`, hexadecimal."""

    def check(file: Path) -> None:
        if size is not None and file.stat().st_size != size:
            raise ValueError(f"{file.stat().st_size:,} bytes instead of {size:,}")
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, kind).hexdigest()
        if found != digest:
            raise ValueError(f"its {kind} is {found}, not {digest}: not the file that was published")

    check.size = size
    return check


def fetch(urls: Sequence[str], path: Path, check: Callable[[Path], None], progress: bool = True) -> Path:
    """`path`, fetched from the first of `urls` whose file passes `check`; at once if it is there and passes.

    check: raises ValueError for a file that must not be kept; its attribute `size`, if it has one, is the number of
    bytes to expect. An interrupted transfer goes on where it stopped, with this or the next call, from any mirror.
    Raises OSError that lists what every mirror answered, or for a full disk; `path` is as it was.
    """
    partial, failures = path.with_name(f".{path.name}.part"), []
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and _passes(check, path):
        return path
    with tqdm(desc=path.name, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress) as bar:
        for url in urls:
            try:
                _from_mirror(url, partial, check, bar)
                return partial.replace(path)
            except (_Refused, _Broken, ValueError, requests.RequestException) as error:
                failures.append(f"{url}: {_brief(error)}")
    raise OSError(f"{path} could not be fetched. " + "; ".join(failures))


def _passes(check: Callable[[Path], None], path: Path) -> bool:
    try:
        check(path)
    except ValueError:
        return False
    return True


def _from_mirror(url: str, partial: Path, check: Callable[[Path], None], bar: tqdm) -> None:
    """The whole file, checked. Parts of two connections may not fit together: then all of it is asked for once more."""
    for last in (False, True):
        in_parts = _transfer(url, partial, getattr(check, "size", None), bar)
        try:
            return check(partial)
        except ValueError:
            partial.unlink()
            if last or not in_parts:
                raise


def _transfer(url: str, partial: Path, size: int | None, bar: tqdm) -> bool:
    """Connections to one mirror until the file is whole; was there more than one, or something before?"""
    idle, begun = 0, _size(partial) > 0
    while True:
        before = _size(partial)
        try:
            _connection(url, partial, size, bar)
            return begun
        except (_Broken, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            idle, begun = 0 if _size(partial) >= before + CHUNK else idle + 1, True
            wait = getattr(error, "wait", None)
            if idle == TRIES or (wait or 0) > PATIENCE:
                raise
            _pause(2 ** max(0, idle - 1) if wait is None else wait)


def _connection(url: str, partial: Path, size: int | None, bar: tqdm) -> None:
    """One request: appends to `partial` what it lacks; returns when nothing is missing."""
    have = _size(partial)
    if size is not None and have == size:
        return
    headers = {"Accept-Encoding": "identity"}  # lengths and ranges count the file's own bytes
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as reply:
        start = _start(reply, have, partial)
        if start is None:
            return
        total = start + int(reply.headers["Content-Length"]) if "Content-Length" in reply.headers else size
        if size is not None and total != size:
            raise _Refused(f"offers {total:,} bytes instead of {size:,}")
        _write(reply, partial, start, total, bar)


def _start(reply: requests.Response, have: int, partial: Path) -> int | None:
    """From which byte on the reply brings the file; None: `partial` is whole already."""
    said = reply.headers.get("Content-Range", "")
    if reply.status_code in BUSY:
        after = reply.headers.get("Retry-After", "")
        raise _Broken(f"{reply.status_code} {reply.reason}", float(after) if after.isdigit() else None)
    if reply.status_code == 416 and said == f"bytes */{have}":
        return None
    if reply.status_code == 416 or (reply.status_code == 206 and not said.startswith(f"bytes {have}-")):
        partial.unlink(missing_ok=True)
        raise _Broken(f"cannot go on after {have:,} bytes: {reply.status_code}, {said or 'no Content-Range'}", wait=0)
    if reply.status_code not in (200, 206):
        raise _Refused(f"{reply.status_code} {reply.reason}")
    return have if reply.status_code == 206 else 0


def _write(reply: requests.Response, partial: Path, start: int, total: int | None, bar: tqdm) -> None:
    free = shutil.disk_usage(partial.parent).free + _size(partial)
    if total is not None and total > free:
        raise OSError(errno.ENOSPC, f"{partial.parent} has {free:,} bytes free, the file needs {total:,}")
    bar.total, bar.n = total, start
    try:
        with partial.open("ab" if start else "wb") as file:
            for chunk in reply.iter_content(CHUNK):
                if total is not None and file.tell() + len(chunk) > total:
                    raise _Refused(f"sends more than {total:,} bytes")
                file.write(chunk)
                bar.update(len(chunk))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            kept = f"{_size(partial):,} bytes are kept in {partial}"
            raise OSError(errno.ENOSPC, f"the disk is full; {kept}; with more room the same command goes on") from error
        raise
    if total is not None and _size(partial) < total:
        raise _Broken(f"ended after {_size(partial):,} of {total:,} bytes")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _brief(error: Exception) -> str:
    """The innermost reason: libraries wrap it several times."""
    while inner := next((e for e in (getattr(error, "reason", None), *error.args) if isinstance(e, Exception)), None):
        error = inner
    return str(error).split(">: ")[-1] or type(error).__name__
