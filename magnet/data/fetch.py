"""One file over HTTP: from the first mirror that gives it, resumed where it stopped, checked before it counts.

    fetch(["https://one/refcoco.zip", "https://two/refcoco.zip"], path, checked("sha256", "7f92...", size=53_993_993))

What arrives lies beside `path` as .NAME.part until it has passed its check; a rename then makes it `path`. A mirror
whose bytes do not fit to that part is asked for all of it, as .NAME.anew: a bad one does not cost what others gave.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import requests
import urllib3
from tqdm import tqdm

from magnet.data.disk import explained, require_room

CHUNK = 1 << 16  # bytes
LIMIT = 1 << 30  # bytes of a file whose size is not known
SLOWEST, WINDOW = 1000, 30  # bytes a second, over so many seconds: a slower mirror is given up
TIMEOUT = (10, 30)  # seconds until a connection, and without a byte
TRIES = 4  # connections in a row that bring less than a chunk before a mirror is given up
RESTARTS = 2  # times that a mirror which cannot go on where it stopped is asked for all of it
PATIENCE = 60  # seconds: a server that asks for more is busy for good
BUSY = {408, 429, 500, 502, 503, 504}  # may pass
NUMBER = r"[0-9]{1,18}"
RANGE = re.compile(rf"bytes ({NUMBER})-{NUMBER}/({NUMBER}|\*)")
_pause = time.sleep


class _Job(NamedTuple):
    """What is wanted of every mirror. size: in bytes, where it is known; limit: more is refused."""

    check: Callable[[Path], None]
    size: int | None
    limit: int
    bar: tqdm


class _Refused(Exception):
    """This mirror does not give the file; another may."""


class _Unfit(Exception):
    """This mirror cannot go on where the file stops."""


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


def fetch(
    urls: Sequence[str], path: Path, check: Callable[[Path], None], progress: bool = True, limit: int = LIMIT
) -> Path:
    """`path`, fetched from the first of `urls` whose file passes `check`; at once if it is there and passes.

    check: raises ValueError for a file that must not be kept; its attribute `size`, if it has one, is the number of
    bytes to expect: a mirror that offers another is passed over, before the disk is asked for room. Without it a mirror
    is believed, up to `limit` bytes and the room there is. An interrupted transfer goes on where it stopped, with this
    or the next call, from any mirror.
    Raises OSError that lists what every mirror answered, or for a full disk; `path` is as it was.
    """
    part, failures, size = path.with_name(f".{path.name}.part"), [], getattr(check, "size", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not _problem(check, path):
        return path
    with tqdm(desc=path.name, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress) as bar:
        for url in urls:
            _keep_longer(part)
            try:
                return _in_place(path, _from_mirror(url, part, _Job(check, size, size or limit, bar)), part)
            except (_Refused, _Unfit, _Broken, ValueError, requests.RequestException) as error:
                failures.append(f"{url}: {_brief(error)}")
    _keep_longer(part)
    raise OSError(f"{path} could not be fetched. " + "; ".join(failures))


def _problem(check: Callable[[Path], None], file: Path) -> str | None:
    try:
        check(file)
    except ValueError as error:
        return str(error)


def _in_place(path: Path, whole: Path, part: Path) -> Path:
    """`whole` becomes `path`; the other one goes first, or a kill in between would leave it for ever."""
    for file in {part, _anew(part)} - {whole}:
        file.unlink(missing_ok=True)
    return whole.replace(path)


def _anew(part: Path) -> Path:
    return part.with_suffix(".anew")


def _keep_longer(part: Path) -> None:
    """What was fetched anew takes the part's place where it got further; a part without a byte goes."""
    if _size(_anew(part)) > _size(part):
        _anew(part).replace(part)
    _anew(part).unlink(missing_ok=True)
    if not _size(part):
        part.unlink(missing_ok=True)


def _from_mirror(url: str, part: Path, job: _Job) -> Path:
    """The whole file, checked: `part` completed or, where the two do not fit together, all of it anew.

    A bad mirror leaves `part` as it was, or longer.
    """
    for file in (part, *[_anew(part)] * RESTARTS):
        before = _size(file)
        try:
            in_parts = _transfer(url, file, job)
        except _Unfit as error:
            problem = error
            _keep_longer(part)
            continue
        if not (found := _problem(job.check, file)):
            return file
        problem = _Refused(found)
        _cut(file, before)
        if file != part or not in_parts:
            break
    raise problem


def _transfer(url: str, file: Path, job: _Job) -> bool:
    """Connections to one mirror until `file` is whole; was there more than one, or something before?"""
    idle, in_parts = 0, _size(file) > 0
    while True:
        before = _size(file)
        try:
            _connection(url, file, job)
            return in_parts
        except (_Broken, requests.ConnectionError, requests.Timeout) as error:
            idle, in_parts = 0 if _size(file) >= before + CHUNK else idle + 1, True
            wait = getattr(error, "wait", None)
            if idle == TRIES or (wait or 0) > PATIENCE:
                raise
            _pause((idle and 2 ** (idle - 1)) if wait is None else wait)


def _connection(url: str, file: Path, job: _Job) -> None:
    """One request: appends to `file` what it lacks; returns when nothing is missing."""
    have = _size(file)
    if job.size is not None and have == job.size:
        return
    headers = {"Accept-Encoding": "identity"}  # lengths and ranges count the file's own bytes
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as reply:
        said = _total(reply, have)
        total = job.size if said is None else said
        if job.size is not None and total != job.size:
            raise _Refused(f"offers {total:,} bytes instead of {job.size:,}")
        if total is not None and total > job.limit:
            raise _Refused(f"offers {total:,} bytes, more than {job.limit:,}")
        if reply.status_code != 416:
            _write(reply, file, total, job)


def _total(reply: requests.Response, have: int) -> int | None:
    """How many bytes the whole file has, where the reply says it; an error unless it goes on after `have` bytes."""
    status, said = reply.status_code, reply.headers.get("Content-Range", "")
    if status in BUSY:
        after = reply.headers.get("Retry-After", "")
        raise _Broken(f"{status} {reply.reason}", int(after) if re.fullmatch(NUMBER, after) else None)
    if status == 200 and not have:
        return _length(reply)
    if status == 206 and (sent := RANGE.fullmatch(said)) and int(sent[1]) == have:
        return None if sent[2] == "*" else int(sent[2])
    if status == 416 and said == f"bytes */{have}":
        return have
    if status in (200, 206, 416):
        raise _Unfit(f"cannot go on after {have:,} bytes: {status}, {said or 'no Content-Range'}")
    raise _Refused(f"{status} {reply.reason}")


def _length(reply: requests.Response) -> int | None:
    text = reply.headers.get("Content-Length")
    if text is not None and not re.fullmatch(NUMBER, text):
        raise _Refused(f"says a Content-Length of {text[:80]!r}, which is no number of bytes")
    return None if text is None else int(text)


def _write(reply: requests.Response, file: Path, total: int | None, job: _Job) -> None:
    """Appends what the reply brings; _Broken if the file is then shorter than `total`, be it by the server's choice."""
    start, most = _size(file), job.limit if total is None else total
    _ask_for_room(file, (total or start) - start, job)
    job.bar.total, job.bar.n = total, start
    with explained(lambda: _kept(file)), file.open("ab") as stream:
        for piece in _pieces(reply):
            if stream.tell() + len(piece) > most:
                stream.truncate(start)
                raise _Refused(f"sends more than {most:,} bytes")
            stream.write(piece)
            job.bar.update(len(piece))
    if total is not None and _size(file) < total:
        raise _Broken(f"ended after {_size(file):,} of {total:,} bytes")


def _ask_for_room(file: Path, missing: int, job: _Job) -> None:
    """A mirror's claim about a file whose size nobody knows may be a lie: too large a one is that mirror's refusal."""
    try:
        require_room(file.parent, missing, "the rest of the file")
    except OSError as error:
        if job.size is not None:
            raise
        raise _Refused(error.strerror) from error


def _kept(file: Path) -> str:
    return f"{_size(file):,} bytes are kept in {file}; with more room the same command goes on"


def _pieces(reply: requests.Response) -> Iterator[bytes]:
    """What arrives, when it arrives: waiting for whole chunks, a byte now and then would never be noticed."""
    since, came = time.monotonic(), 0
    try:
        while piece := reply.raw.read1(CHUNK, decode_content=False):
            yield piece
            came += len(piece)
            if time.monotonic() - since >= WINDOW:
                if came < SLOWEST * WINDOW:
                    raise _Refused(f"sends less than {SLOWEST:,} bytes a second")
                since, came = time.monotonic(), 0
    except urllib3.exceptions.HTTPError as error:
        raise _Broken(_brief(error)) from error


def _cut(file: Path, size: int) -> None:
    """Back to its first `size` bytes."""
    with file.open("ab") as stream:
        stream.truncate(size)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _brief(error: Exception) -> str:
    """The innermost reason: libraries wrap it several times."""
    while inner := next((e for e in (getattr(error, "reason", None), *error.args) if isinstance(e, Exception)), None):
        error = inner
    return str(error).split(">: ")[-1] or type(error).__name__
