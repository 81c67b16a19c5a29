"""One file from servers that are slow, broken, busy or lying: recovered from or refused, nothing half-written."""

import errno
import hashlib
import io
import os
import threading
from pathlib import Path

import pytest
from web import serving

from magnet.data import fetch as module
from magnet.data.fetch import checked, fetch

BODY = os.urandom(3_000_000)
CHECK = checked("sha256", hashlib.sha256(BODY).hexdigest(), len(BODY))
UNSIZED = checked("sha256", hashlib.sha256(BODY).hexdigest())


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", (1, 0.3))
    monkeypatch.setattr(module, "_pause", lambda seconds: None)
    with serving() as server:
        server.files["file"] = BODY
        yield server


def get(server, path: Path, *behaviour, check=CHECK, names=("file",)):
    server.behaviour["file"] = list(behaviour)
    return fetch([server.url(name) for name in names], path, check, progress=False)


def left(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("behaviour", ["well", "slow"])
def test_a_good_server_is_asked_once(server, tmp_path, behaviour):
    assert get(server, tmp_path / "file", behaviour).read_bytes() == BODY
    assert left(tmp_path) == ["file"] and len(server.log) == 1


@pytest.mark.hostile("server")
@pytest.mark.parametrize(
    "behaviour, requests",
    [
        (["cut"], 2),
        (["cut", "cut", "cut"], 4),
        (["cut", "ignores_ranges"], 3),
        (["short_ranges"] * 9, 6),
        (["cut", "of_another_size"], 3),
        (["strange_wait"], 2),
        (["cut", "wrong_range"], 3),
        (["cut", "corrupt"], 3),  # the rest is of another file: all of it is asked for again
        (["drops"], 2),
        (["drops", "drops", "drops"], 4),
        (["stalls"], 2),
        ([429], 2),
        ([503, 500], 3),
        (["cut_silently"], 2),
        (["redirect"], 2),
    ],
    ids=str,
)
def test_recovers(server, tmp_path, behaviour, requests):
    assert get(server, tmp_path / "a" / "file", *behaviour).read_bytes() == BODY
    assert left(tmp_path / "a") == ["file"] and len(server.log) == requests


def _is_start(part: Path) -> bool:
    """Is it not there, or the file's first bytes?"""
    return not part.exists() or (0 < part.stat().st_size < len(BODY) and BODY.startswith(part.read_bytes()))


@pytest.mark.hostile("server")
@pytest.mark.parametrize(
    "behaviour, message",
    [
        ([404], "404 Not Found"),
        ([403], "403 Forbidden"),
        ([500] * 4, "500 Internal Server Error"),
        (["drops"] * 4, "Remote end closed connection"),
        (["corrupt"], "its sha256 is .*: not the file that was published"),
        (["longer"], "offers 3,000,004 bytes instead of 3,000,000"),
        (["endless"], "sends more than 3,000,000 bytes"),
        (["login_page"], "offers 26 bytes instead of"),
        (["cut_then_416"] * 100, "cannot go on after 1,500,000 bytes: 416, bytes \\*/0"),
        (["strange_length"], "says a Content-Length of 'abc'"),
        (["strange_wait"] * 4, "429 Too Many Requests"),
        (["redirect"] * 40, "Exceeded 30 redirects"),
    ],
    ids=str,
)
def test_refuses_and_says_why(server, tmp_path, behaviour, message):
    with pytest.raises(OSError, match=rf"file could not be fetched\. http://127.*/file: {message}"):
        get(server, tmp_path / "file", *behaviour)
    assert set(left(tmp_path)) <= {".file.part"} and _is_start(tmp_path / ".file.part")


@pytest.mark.hostile("server")
def test_the_next_mirror_takes_over(server, tmp_path):
    for first in ("gone", "file"):  # a mirror without the file, and one that gives another
        server.files["mirror"] = BODY
        assert get(server, tmp_path / first, "corrupt", names=(first, "mirror")).read_bytes() == BODY
    assert left(tmp_path) == ["file", "gone"]


@pytest.mark.hostile("server")
def test_a_mirror_goes_on_where_another_stopped(server, tmp_path):
    server.files["mirror"] = BODY
    get(server, tmp_path / "file", "cut", 404, names=("file", "mirror"))
    assert server.log[-1] == ("mirror", "bytes=1500000-")


@pytest.mark.hostile("server")
@pytest.mark.parametrize("check", [CHECK, UNSIZED], ids=["sized", "unsized"])
@pytest.mark.parametrize("bad", ["chunked_page", "login_page", "of_another_size", "corrupt", "ignores_ranges"])
def test_a_bad_mirror_does_not_cost_what_another_gave(server, tmp_path, bad, check):
    part = tmp_path / ".file.part"
    part.write_bytes(BODY[:2_700_000])
    server.files |= {"bad": bytes(len(BODY)), "mirror": BODY}
    server.behaviour["bad"] = [bad] * 20
    with pytest.raises(OSError, match="could not be fetched"):
        get(server, tmp_path / "file", check=check, names=("bad",))
    assert part.read_bytes() == BODY[:2_700_000] and left(tmp_path) == [".file.part"]
    assert get(server, tmp_path / "file", check=check, names=("bad", "mirror")).read_bytes() == BODY
    assert server.log[-1] == ("mirror", "bytes=2700000-") and left(tmp_path) == ["file"]


@pytest.mark.hostile("server")
def test_what_a_bad_mirror_gave_does_not_stand_in_the_way(server, tmp_path):
    (tmp_path / ".file.part").write_bytes(bytes(2_700_000))
    assert get(server, tmp_path / "file", "well", "cut").read_bytes() == BODY
    assert [asked for _, asked in server.log] == ["bytes=2700000-", None, "bytes=1500000-"]


@pytest.mark.hostile("server")
def test_what_was_fetched_anew_is_kept_where_it_is_longer(server, tmp_path):
    (tmp_path / ".file.part").write_bytes(bytes(1000))
    with pytest.raises(OSError, match="404"):
        get(server, tmp_path / "file", "ignores_ranges", "cut", 404)
    assert left(tmp_path) == [".file.part"] and (tmp_path / ".file.part").read_bytes() == BODY[:1_500_000]


def test_what_a_killed_process_fetched_anew_is_gone_on_with(server, tmp_path):
    (tmp_path / ".file.part").write_bytes(bytes(1000))
    (tmp_path / ".file.anew").write_bytes(BODY[:2000])
    assert get(server, tmp_path / "file").read_bytes() == BODY
    assert server.log == [("file", "bytes=2000-")] and left(tmp_path) == ["file"]


@pytest.mark.hostile("server")
@pytest.mark.parametrize(
    "bad, message",
    [
        ("endless", "sends more than 5,000,000 bytes"),
        ("huge_length", "offers 1,000,000,000,000,000 bytes, more than 5,000,000"),
    ],
)
def test_a_file_of_unknown_size_has_a_limit(server, tmp_path, bad, message):
    server.files["mirror"] = BODY
    server.behaviour["file"] = [bad, bad]
    with pytest.raises(OSError, match=message):
        fetch([server.url("file")], tmp_path / "file", UNSIZED, False, limit=5_000_000)
    fetch([server.url("file"), server.url("mirror")], tmp_path / "file", UNSIZED, False, limit=5_000_000)
    assert (tmp_path / "file").read_bytes() == BODY and left(tmp_path) == ["file"]


@pytest.mark.hostile("server")
def test_a_mirror_that_trickles_is_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 0.2)  # 200 bytes are asked for in that time; four come
    server.files["mirror"] = BODY
    with pytest.raises(OSError, match="sends less than 1,000 bytes a second"):
        get(server, tmp_path / "file", "trickle")
    assert get(server, tmp_path / "file", "trickle", names=("file", "mirror")).read_bytes() == BODY


@pytest.mark.hostile("server")
def test_all_mirrors_are_named_when_none_gives_it(server, tmp_path):
    with pytest.raises(OSError, match=r"one: 404 Not Found; .*two: 404 Not Found"):
        get(server, tmp_path / "file", names=("one", "two"))


@pytest.mark.hostile("server")
def test_a_host_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_pause", lambda seconds: None)
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:1/file: .*Connection refused"):
        fetch(["http://127.0.0.1:1/file"], tmp_path / "file", CHECK, progress=False)


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file").write_bytes(BODY)
    get(server, tmp_path / "file")
    assert not server.log
    (tmp_path / "file").write_bytes(BODY[:-1])  # a damaged one is
    assert get(server, tmp_path / "file").read_bytes() == BODY


@pytest.mark.hostile("server")
def test_a_later_call_goes_on(server, tmp_path):
    with pytest.raises(OSError, match="404"):
        get(server, tmp_path / "file", "cut", 404)
    assert left(tmp_path) == [".file.part"]
    get(server, tmp_path / "file")
    assert server.log[-1] == ("file", "bytes=1500000-") and left(tmp_path) == ["file"]


def test_a_partial_file_that_is_whole_or_too_long(server, tmp_path):
    (tmp_path / ".file.part").write_bytes(BODY)
    assert get(server, tmp_path / "file", check=UNSIZED).read_bytes() == BODY
    assert server.log == [("file", "bytes=3000000-")]  # answered 416: nothing is missing
    (tmp_path / "file").unlink()
    (tmp_path / ".file.part").write_bytes(BODY + b"x")
    assert get(server, tmp_path / "file").read_bytes() == BODY


@pytest.mark.hostile("server")
def test_a_server_that_is_busy_for_good_is_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", -1)
    with pytest.raises(OSError, match="429 Too Many Requests"):
        get(server, tmp_path / "file", 429)
    assert len(server.log) == 1


@pytest.mark.hostile("disk")
def test_too_little_room_is_said_before_the_transfer(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="has 1,000 bytes free, the rest of the file needs 3,000,000") as caught:
        get(server, tmp_path / "file")
    assert caught.value.errno == errno.ENOSPC and left(tmp_path) == []


@pytest.mark.hostile("server")
def test_a_mirror_that_lies_about_the_size_does_not_decide_whether_there_is_room(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": len(BODY)}))
    server.files["mirror"] = BODY
    assert get(server, tmp_path / "file", "huge_length", names=("file", "mirror")).read_bytes() == BODY
    assert [name for name, _ in server.log] == ["file", "mirror"]


@pytest.mark.hostile("server")
def test_without_a_known_size_a_mirror_that_asks_for_more_room_than_there_is_is_passed_over(server, tmp_path):
    server.files["mirror"], server.behaviour["file"] = BODY, ["huge_length"] * 2
    with pytest.raises(OSError, match="the rest of the file needs 1,000,000,000,000,000"):
        fetch([server.url("file")], tmp_path / "file", UNSIZED, False, limit=10**16)
    assert left(tmp_path) == []
    found = fetch([server.url("file"), server.url("mirror")], tmp_path / "file", UNSIZED, False, limit=10**16)
    assert found.read_bytes() == BODY and left(tmp_path) == ["file"]


@pytest.mark.hostile("disk")
def test_a_disk_that_fills_up_keeps_what_came(server, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > 2_000_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda self, mode="r", *_: Full(self, mode))
    with pytest.raises(OSError, match=r"disk is full; [0-9,]+ bytes are kept in .*\.file\.part; with more room"):
        get(server, tmp_path / "file")
    monkeypatch.undo()
    kept = (tmp_path / ".file.part").stat().st_size
    assert get(server, tmp_path / "file").read_bytes() == BODY
    assert kept > 1_900_000 and server.log[-1] == ("file", f"bytes={kept}-")


def test_a_stop_keeps_what_came(server, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.tqdm, "update", stop)
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path / "file")
    monkeypatch.undo()
    kept = (tmp_path / ".file.part").stat().st_size
    assert get(server, tmp_path / "file").read_bytes() == BODY and server.log[-1][1] == f"bytes={kept}-"
    assert kept > 0 and left(tmp_path) == ["file"]


def test_threads_do_not_disturb_each_other(server, tmp_path):
    server.files |= {str(n): os.urandom(50_000) for n in range(8)}
    checks = {n: checked("sha256", hashlib.sha256(server.files[str(n)]).hexdigest()) for n in range(8)}
    jobs = [([server.url(str(n))], tmp_path / str(n), checks[n], False) for n in range(8)]
    fetching = [threading.Thread(target=fetch, args=job) for job in jobs]
    for thread in fetching:
        thread.start()
    for thread in fetching:
        thread.join()
    assert all((tmp_path / str(n)).read_bytes() == server.files[str(n)] for n in range(8))
