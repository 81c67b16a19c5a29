"""Data sets from a local server: hostile archives, missing pictures, two processes; nothing half-written."""

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import stat
import struct
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from refer_toy import Toy
from web import serving

from magnet import cli
from magnet.data import check_images, read_refer
from magnet.data import download as module
from magnet.data import fetch as fetching
from magnet.data.download import Archive, download, download_all_images, download_images
from magnet.data.family import COUNTS, leaks, miscounted, num_repeated, shared_images
from magnet.data.fetch import checked
from magnet.data.unpack import unpack

WANTED = ("instances.json", "refs(unc).p")
FILE = "COCO_train2014_000000000007.jpg"


def toy_archive(tmp_path: Path) -> dict[str, bytes]:
    """The files of a data set of one COCO picture."""
    toy = Toy(tmp_path / "source")
    toy.root.mkdir()
    toy.images[0]["file_name"] = FILE
    toy.write()
    return {"refs(unc).p": (toy.folder / "refs(me).p").read_bytes(),
            "instances.json": (toy.folder / "instances.json").read_bytes()}  # fmt: skip


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return packed.getvalue()


def picture(size=(60, 40), kind="JPEG") -> bytes:
    body = io.BytesIO()
    Image.new("RGB", size, "teal").save(body, kind)
    return body.getvalue()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", (1, 0.3))
    monkeypatch.setattr(fetching, "_pause", lambda seconds: None)
    with serving() as server:
        monkeypatch.setattr(module, "COCO", (server.url().rstrip("/"),))
        publish(server, monkeypatch, {f"refcoco/{name}": body for name, body in toy_archive(tmp_path).items()})
        server.files |= {f"train2014/{FILE}": picture()}
        yield server


def publish(server, monkeypatch, files: dict[str, bytes]) -> None:
    body = zipped(files)
    server.files["refcoco.zip"] = body
    check = checked("sha256", hashlib.sha256(body).hexdigest(), len(body))
    archive = Archive("refcoco.zip", (server.url("refcoco.zip"),), check, WANTED, len(body))
    monkeypatch.setitem(module.ARCHIVES, "refcoco", archive)
    monkeypatch.setitem(module.SPLIT_BY, "refcoco", ("unc",))


def tree(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and ".cache" not in f.parts)


# --- data sets --------------------------------------------------------------------------------------------------------


def test_a_data_set_arrives_and_can_be_read(server, tmp_path):
    root = tmp_path / "data"
    files = download(["refcoco"], root, progress=False)
    assert [file.name for file in files] == list(WANTED)
    assert tree(root) == [".download.lock", "refcoco/instances.json", "refcoco/refs(unc).p"]
    assert len(read_refer(root, "refcoco", "unc")) == 3
    download(["refcoco"], root, progress=False)
    assert len(server.log) == 1  # it was there
    assert download_images(root, ["refcoco"], progress=False) == 1
    with Image.open(root / "images/train2014" / FILE) as image:
        assert image.size == (60, 40)
    assert download_images(root, ["refcoco"], progress=False) == 0


def test_an_own_mirror_is_asked_first(server, tmp_path):
    server.files["own/refcoco.zip"] = server.files["refcoco.zip"]
    download(["refcoco"], tmp_path / "data", mirrors=[server.url("own/")], progress=False)
    assert server.log == [("own/refcoco.zip", None)]


@pytest.mark.parametrize("name", WANTED)
def test_annotations_that_were_damaged_are_fetched_anew(server, tmp_path, name):
    root = tmp_path / "data"
    download(["refcoco"], root, progress=False)
    file = root / "refcoco" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    with pytest.raises(ValueError, match=rf"cut short .*; `magnet data download refcoco --root {root}` fetches it"):
        read_refer(root, "refcoco", "unc")
    download(["refcoco"], root, progress=False)
    assert file.read_bytes() == whole and len(server.log) == 2


@pytest.mark.hostile("disk")
def test_a_full_disk_keeps_the_archive(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is full"):
        patch.setattr("shutil.copyfileobj", full)
        download(["refcoco"], tmp_path / "data", progress=False)
    download(["refcoco"], tmp_path / "data", progress=False)
    assert len(server.log) == 1 and "refcoco.zip" not in tree(tmp_path / "data")


@pytest.mark.hostile("server")
@pytest.mark.parametrize(
    "bad", [b"<html>virus scan warning</html>", zipped({"readme.txt": b""})], ids=["page", "other"]
)
def test_a_mirror_that_gives_no_grefcoco_is_passed_over(server, tmp_path, monkeypatch, bad):
    (tmp_path / "other").mkdir()
    instances = toy_archive(tmp_path / "other")["instances.json"]
    server.files["bad/grefcoco.zip"] = bad
    server.files["grefcoco.zip"] = zipped({"instances.json": instances, "grefs(unc).json": b"[]"})
    published = module.ARCHIVES["grefcoco"]._replace(urls=(server.url("grefcoco.zip"),))
    monkeypatch.setitem(module.ARCHIVES, "grefcoco", published)
    download(["grefcoco"], tmp_path / "data", [server.url("bad")], progress=False)
    assert tree(tmp_path / "data") == [".download.lock", "grefcoco/grefs(unc).json", "grefcoco/instances.json"]


def test_an_unknown_data_set(tmp_path):
    with pytest.raises(ValueError, match=r"no data set refcocoa; there are refcoco, refcoco\+, refcocog, grefcoco"):
        download(["refcocoa"], tmp_path)


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.hostile("archive")
@pytest.mark.parametrize(
    "files, message",
    [
        ({"refs(unc).p": pickle.dumps(Evil())}, "is refused: it wants to import posix.system; nothing of it was run"),
        ({"refs(unc).p": b"\x80\x02]"}, "is damaged or cut short"),
        ({"instances.json": b"<html>"}, "is damaged or cut short"),
        ({"instances.json": b"{}"}, "has no list 'images'"),
    ],
)
def test_files_that_are_not_what_they_should_be(server, tmp_path, monkeypatch, files, message):
    (tmp_path / "again").mkdir()
    publish(server, monkeypatch, toy_archive(tmp_path / "again") | files)
    with pytest.raises(ValueError, match=message):
        download(["refcoco"], tmp_path / "data", progress=False)
    assert tree(tmp_path / "data") == [".download.lock"]


def test_two_processes_take_turns(server, tmp_path):
    server.behaviour["refcoco.zip"] = ["slow", "slow"]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=download, args=(["refcoco"], tmp_path / "data", (), False)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(server.log) == 1 and len(read_refer(tmp_path / "data", "refcoco", "unc")) == 3


# --- hostile archives -------------------------------------------------------------------------------------------------


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("refcoco/refs(unc).p")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.hostile("archive")
@pytest.mark.parametrize(
    "name",
    ["../refs(unc).p", "a/../../refs(unc).p", "/etc/refs(unc).p", "..\\refs(unc).p", "C:\\refs(unc).p", "C:refs(unc).p",
     "\\\\host\\refs(unc).p"],
)  # fmt: skip
def test_a_path_that_leaves_its_folder(tmp_path, name):
    refused(tmp_path, {"instances.json": b"{}", name: b""}, "leaves its folder; nothing was unpacked")


def refused(tmp_path: Path, files, message: str, **options) -> None:
    body = files if isinstance(files, bytes) else zipped(files)
    (tmp_path / "a.zip").write_bytes(body)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "instances.json").write_text("mine")
    with pytest.raises(ValueError, match=message):
        unpack(tmp_path / "a.zip", tmp_path / "out", WANTED, **options)
    assert tree(tmp_path) == ["a.zip", "out/instances.json"]
    assert (tmp_path / "out" / "instances.json").read_text() == "mine"


GOOD = {"instances.json": b"{}" * 500, "refs(unc).p": b"refs" * 500}


@pytest.mark.hostile("archive")
def test_links_are_refused(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("instances.json", b"{}")
        archive.writestr(link(), "/etc/passwd")
    refused(tmp_path, packed.getvalue(), "is a link or a device")


@pytest.mark.hostile("archive")
def test_encrypted_members_are_refused(tmp_path):
    body = bytearray(zipped(GOOD))
    central = body.index(b"PK\1\2")
    body[central + 8] |= 1
    refused(tmp_path, bytes(body), "is encrypted")


@pytest.mark.hostile("archive")
def test_a_bomb_is_refused(tmp_path):
    refused(
        tmp_path, GOOD | {"zeros": bytes(10_000_000)}, "unpacks to 10,003,000 bytes, more than 10,000", limit=10_000
    )


@pytest.mark.hostile("archive")
def test_a_member_larger_than_it_says(tmp_path):
    body = bytearray(zipped({"instances.json": bytes(100_000), "refs(unc).p": b""}))
    for place, offset in ((body.index(b"PK\1\2"), 24), (0, 22)):  # the sizes in both of its headers
        body[place + offset : place + offset + 4] = struct.pack("<I", 10)
    refused(tmp_path, bytes(body), "is no zip, or damaged")


@pytest.mark.hostile("archive")
@pytest.mark.parametrize("twin", ["other/refs(unc).p", "other/REFS(unc).P"])
def test_two_members_of_one_name(tmp_path, twin):
    body = zipped(GOOD | {twin: b""})
    if twin.endswith("P"):  # does not match, so is not in the way
        (tmp_path / "a.zip").write_bytes(body)
        unpack(tmp_path / "a.zip", tmp_path / "out", WANTED)
        assert tree(tmp_path / "out") == sorted(WANTED)
    else:
        refused(tmp_path, body, "comes more than once")


@pytest.mark.hostile("archive")
def test_a_member_that_is_missing(tmp_path):
    refused(tmp_path, {"instances.json": b"{}"}, r"holds no refs\(unc\)\.p, only \['instances.json'\]")


@pytest.mark.hostile("archive")
def test_a_damaged_member(tmp_path):
    body = bytearray(zipped(GOOD))
    place = body.index(b"instances.json") + len("instances.json") + 2
    body[place] ^= 0xFF
    refused(tmp_path, bytes(body), "is no zip, or damaged")


@pytest.mark.hostile("archive")
@pytest.mark.parametrize("keep", [0, 10, 300])
def test_an_archive_cut_short(tmp_path, keep):
    refused(tmp_path, zipped(GOOD | {"more": os.urandom(1000)})[:keep], "is no zip, or damaged")


def test_what_a_mac_adds_is_passed_over(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({**GOOD, "__MACOSX/refs(unc).p": b"", "refcoco/.DS_Store": b""}))
    unpack(tmp_path / "a.zip", tmp_path / "out", WANTED)
    assert tree(tmp_path / "out") == sorted(WANTED)


@pytest.mark.hostile("disk")
def test_a_disk_that_fills_up_while_unpacking(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(zipped(GOOD))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match=r"the disk is full; nothing was unpacked from .*a\.zip, which is kept"):
        unpack(tmp_path / "a.zip", tmp_path / "out", WANTED)
    assert tree(tmp_path) == ["a.zip"]


@pytest.mark.hostile("disk")
def test_too_little_room_is_said_before_unpacking(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(zipped(GOOD))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 2999}))
    with pytest.raises(OSError, match=r"has 2,999 bytes free, what is in .*a\.zip needs 3,000"):
        unpack(tmp_path / "a.zip", tmp_path / "out", WANTED)
    assert tree(tmp_path) == ["a.zip"]


@pytest.mark.hostile("archive")
@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_STORED])
def test_a_member_damaged_in_any_packing(tmp_path, method):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, body in {"instances.json": os.urandom(3000), "refs(unc).p": b"refs"}.items():
            archive.writestr(name, body)
    for place in (60, 120, 1000):
        body = bytearray(packed.getvalue())
        body[place] ^= 0xFF
        (tmp_path / "a.zip").write_bytes(bytes(body))
        with pytest.raises(ValueError, match=r"a\.zip is .*damaged"):
            unpack(tmp_path / "a.zip", tmp_path / "out", WANTED)
    assert tree(tmp_path) == ["a.zip"]


@pytest.mark.hostile("archive")
@pytest.mark.parametrize(
    "number, message", [(2000, "has 2,002 members, more than 1,000"), (9000, "its table of contents")]
)
def test_more_members_than_anyone_needs(tmp_path, number, message):
    refused(tmp_path, GOOD | {str(n): b"" for n in range(number)}, message)


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(GOOD))
    (tmp_path / "out" / ".unpackingabc").mkdir(parents=True)
    (tmp_path / "out" / ".unpackingabc" / "instances.json").write_text("half")
    unpack(tmp_path / "a.zip", tmp_path / "out", WANTED)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(WANTED)


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("server")
@pytest.mark.parametrize(
    "body, message",
    [
        (None, "404 Not Found"),
        (b"<html>sorry</html>", "is not readable as an image"),
        (picture()[:300], "is not readable as an image"),
        (picture((59, 40)), "is 59 x 40 pixels, instances.json says 60 x 40"),
    ],
    ids=["missing", "a page", "cut short", "of another size"],
)
def test_pictures_that_are_none(server, tmp_path, body, message):
    root = tmp_path / "data"
    download(["refcoco"], root, progress=False)
    server.files[f"train2014/{FILE}"] = body
    with pytest.raises(OSError, match=rf"1 of 1 pictures could not be had; the same command tries .*{message}"):
        download_images(root, ["refcoco"], progress=False)
    assert not (root / "images/train2014" / FILE).exists()
    server.files[f"train2014/{FILE}"] = picture()
    assert download_images(root, ["refcoco"], progress=False) == 1


@pytest.mark.parametrize(
    "damaged, repair",
    [(picture()[:300], False), (b"", False), (picture()[:300] + b"\xff\xd9", True), (picture((59, 40)), True)],
    ids=["half", "empty", "damaged inside", "of another size"],
)
def test_a_damaged_picture_is_fetched_anew(server, tmp_path, damaged, repair):
    root = tmp_path / "data"
    download(["refcoco"], root, progress=False)
    download_images(root, ["refcoco"], progress=False)
    file = root / "images/train2014" / FILE
    file.write_bytes(damaged)
    (problem,) = check_images(read_refer(root, "refcoco", "unc"))
    assert "magnet data download images --repair" in problem
    assert download_images(root, ["refcoco"], progress=False, repair=repair) == 1
    assert file.read_bytes() == picture()


def test_a_whole_picture_that_does_not_end_as_most_do_is_kept(server, tmp_path):
    root = tmp_path / "data"
    download(["refcoco"], root, progress=False)
    download_images(root, ["refcoco"], progress=False)
    (root / "images/train2014" / FILE).write_bytes(picture() + b"more")
    assert download_images(root, ["refcoco"], progress=False) == 0


@pytest.mark.hostile("server")
def test_an_endless_picture_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PICTURE_LIMIT", 100_000)
    root = tmp_path / "data"
    download(["refcoco"], root, progress=False)
    server.behaviour[f"train2014/{FILE}"] = ["endless"]
    with pytest.raises(OSError, match="sends more than 100,000 bytes"):
        download_images(root, ["refcoco"], progress=False)
    assert download_images(root, ["refcoco"], progress=False) == 1


def test_only_the_pictures_of_a_split(server, tmp_path):
    root = tmp_path / "data"
    download(["refcoco"], root, progress=False)
    with pytest.raises(ValueError, match="no picture is needed by splits testA; there are train, val"):
        download_images(root, ["refcoco"], splits=["testA"], progress=False)
    assert download_images(root, ["refcoco"], splits=["val"], progress=False) == 1


@pytest.mark.hostile("archive")
@pytest.mark.parametrize("name", ["../../seven.jpg", "/etc/passwd", "COCO_train2014_7.jpg", "seven.jpg"])
def test_a_picture_with_a_hostile_name(server, tmp_path, name):
    root = tmp_path / "data"
    download(["refcoco"], root, progress=False)
    file = root / "refcoco" / "instances.json"
    instances = json.loads(file.read_text())
    instances["images"][0]["file_name"] = name
    file.write_text(json.dumps(instances))
    requests = len(server.log)
    with pytest.raises(ValueError, match="is no name of a picture of COCO 2014"):
        download_images(root, ["refcoco"], progress=False)
    assert len(server.log) == requests


@pytest.mark.hostile("server")
def test_a_dead_host_is_given_up_early(server, tmp_path, monkeypatch):
    names = {f"COCO_train2014_{n:012}.jpg": (40, 60) for n in range(100, 1100)}
    monkeypatch.setattr(module, "needed_images", lambda *_: names)
    with pytest.raises(OSError, match="the first 20 pictures could not be had, given up"):
        download_images(tmp_path, ["refcoco"], progress=False)
    assert len(server.log) < 120


def test_all_of_coco(server, tmp_path, monkeypatch):
    body = zipped({f"train2014/{FILE}": picture(), "train2014/readme.txt": b""})
    server.files["zips/train2014.zip"] = body
    check = checked("md5", hashlib.md5(body).hexdigest())
    monkeypatch.setattr(module, "IMAGES", module.IMAGES._replace(urls=(server.url("zips/train2014.zip"),), check=check))
    monkeypatch.setattr(module, "NUM_IMAGES", 1)
    folder = download_all_images(tmp_path / "data", progress=False)
    download_all_images(tmp_path / "data", progress=False)
    assert len(server.log) == 1  # they were all there
    assert tree(tmp_path / "data") == [".download.lock", f"images/train2014/{FILE}"] and folder.is_dir()


def test_what_is_published_has_a_checksum_and_several_mirrors():
    for name in ("refcoco", "refcoco+", "refcocog"):
        archive = module.ARCHIVES[name]
        assert len(archive.urls) > 1 and archive.check.size > 40_000_000
        assert archive.wanted[0] == "instances.json"


# --- counts, leaks and the command ------------------------------------------------------------------------------------


def expressions(**images: list[int]) -> pd.DataFrame:
    """A table of one sentence an object, one object an entry."""
    rows = [{"split": split, "image_id": image} for split, ids in images.items() for image in ids]
    return pd.DataFrame(rows).assign(ref_id=range(len(rows)), sent_id=range(len(rows)))


def test_a_data_set_that_is_not_whole(monkeypatch):
    monkeypatch.setitem(COUNTS, ("refcoco", "unc"), {"train": (3, 2, None), "val": (2, 2, 2), "testA": (1, 1, 1)})
    table = expressions(train=[1, 1, 2], val=[4, 4], dev=[5])
    table.attrs |= {"name": "refcoco", "split_by": "unc"}
    found = ["split 'dev' is not one of train, val, testA", "val: 1 images, not 2", "testA: 0 objects, not 1"]
    assert [line for line in miscounted(table) if "testA: 0" not in line or "objects" in line] == found
    table.attrs["name"] = "mine"
    assert miscounted(table) == []


def test_images_that_training_shares_with_another_split():
    assert shared_images(expressions(train=[1, 2, 3], val=[3, 3, 2, 7], testA=[8])) == {"val": 2}


def test_training_images_that_another_data_set_is_scored_on():
    others = {"refcocog umd": expressions(train=[1], val=[2, 2, 9]), "refcoco+ unc": expressions(train=[3], testA=[8])}
    assert leaks(expressions(train=[1, 2, 3], val=[8]), others) == {"refcocog umd val": 1}


@pytest.mark.skipif("MAGNET_REAL_DATA" not in os.environ, reason="set MAGNET_REAL_DATA to the folder of real data")
def test_the_real_pictures_are_all_scored_somewhere():
    root = Path(os.environ["MAGNET_REAL_DATA"])
    scored = {int(line) for line in (root / "refcoco_all_val_test_image_ids.txt").read_text().split()}
    real = read_refer(root, "refcocog_google_val_mini", "google", cache=False)
    as_training = real.assign(split="train")
    assert len(scored) == 10_113
    found = leaks(as_training, {"family": expressions(test=sorted(scored))})
    assert found == {"family test": real["image_id"].nunique()}


def test_sentences_that_come_twice():
    table = expressions(train=[1, 1, 2, 2]).assign(ref_id=[0, 0, 0, 1], text=["A cup", "a cup ", "cup", "a cup"])
    assert num_repeated(table) == 1


def test_pictures_of_another_year(server, tmp_path):
    root = tmp_path / "data"
    download(["refcoco"], root, progress=False)
    table = read_refer(root, "refcoco", "unc")
    (problem,) = check_images(table)
    assert "`magnet data download images` fetches what is missing" in problem
    (root / "images" / "train2017").mkdir(parents=True)
    (problem,) = check_images(table)
    assert "train2017 is there instead, of another year" in problem


def test_the_command(server, tmp_path, capsys, monkeypatch):
    root = ["--root", str(tmp_path / "data")]
    monkeypatch.setattr("sys.argv", ["magnet", "data", "download", "refcoco", *root])
    cli.main()
    assert "refs(unc).p" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["magnet", "data", "download", "images", "--split", "val", *root])
    cli.main()
    assert "1 new pictures" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["magnet", "data", "check", "--name", "refcoco", "--split-by", "unc", *root])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().out
    assert "train: 1 objects, not 42,404" in said and "1 images of val are training images, too" in said
    monkeypatch.setattr("sys.argv", ["magnet", "data", "download", "images", "--root", str(tmp_path / "empty")])
    with pytest.raises(SystemExit):
        cli.main()
    assert "holds none of refcoco" in capsys.readouterr().err
