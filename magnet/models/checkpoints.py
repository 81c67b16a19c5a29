"""Files of released checkpoints: found here or on the hub, compared with what was published, read without running code.

The file names are the authors'. What is known of a file says which data it was trained on and at what size; a folder
that a file was converted to keeps where it comes from.
"""

import argparse
import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from huggingface_hub import hf_hub_download

from magnet.config import DataConfig
from magnet.runs import Run, config_from_dict, read_json, read_tensors

REPOSITORY = "yxchng/magnet_weights"  # of MagNet's authors, on the Hugging Face hub
_NUMBERS = [np.dtype(kind) for kind in ("?", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8")]
PLAIN = [  # what may stand beside the weights: LAVT's command line, and numbers of NumPy, such as the best score so far
    argparse.Namespace, np.dtype, *{type(kind) for kind in _NUMBERS},
    *((np._core.multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]  # fmt: skip


class Known(NamedTuple):
    """A published file: its checksum, None where nobody published it, and the data it learnt from."""

    sha256: str | None
    name: str
    split_by: str
    image_size: int = 480
    is_mixed: bool = False  # it learnt from other sets, too


KNOWN = {
    "magnet_refcoco.pth": Known("4ca8f5fa81db9b7c897319735d833ad7154556b17818baa359f04a35f415b9a7", "refcoco", "unc"),
    "magnet_refcoco+.pth": Known("ef037f99d67916f58a2e825fd5274c16d8055255a45d7bbf68250019a9e98bed", "refcoco+", "unc"),
    "magnet_refcocog_umd.pth": Known(
        "4bda67acedc6274066e97656297bc2be1792cd2bdcc0e242ee54cd395ac6a2f5", "refcocog", "umd"
    ),
    "magnet_refcocog_google.pth": Known(
        "cc4a45f06f85be9b1aa670afecefa90a2cda393b1efe2a9c8a9bc8c070a88358", "refcocog", "google"
    ),
    "magnet_all.pth": Known(None, "refcoco", "unc", image_size=448, is_mixed=True),
}


@dataclass(frozen=True)
class Origin:
    """The released file that weights are, or were converted from."""

    file: str
    sha256: str
    learnt_from: tuple[str, str] | None  # data set and split_by; None: several sets, or its name does not say


def is_checkpoint(source) -> bool:
    """Whether this names a file of released weights rather than a run: by its ending."""
    return isinstance(source, str | Path) and Path(source).suffix in (".pth", ".pt")


def find_checkpoint(source: str | Path) -> Path:
    """The file: here, or fetched from the hub: by a name in KNOWN, or as OWNER/REPOSITORY/FILE.

    Raises FileNotFoundError where it is neither here nor to be had, ValueError where it has a published file's name but
    another checksum.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        path = _fetch(str(source))
    known = KNOWN.get(path.name)
    if known and known.sha256 and (found := sha256(path)) != known.sha256:
        raise ValueError(
            f"{path}: its sha256 is {found}, the published {path.name} has {known.sha256}: cut short, or another file. "
            "Fetch it again; if it is your own, give it another name"
        )
    return path


def data_of(source: str | Path) -> DataConfig:
    """The data a released file was trained on and its picture size; RefCOCO at 480 px where the name is not known."""
    known = KNOWN.get(Path(source).name, Known(None, "refcoco", "unc"))
    return DataConfig(name=known.name, split_by=known.split_by, image_size=known.image_size)


def origin_of(source: Path | Run) -> Origin | None:
    """Of a released file, or of a run as `magnet.models.released.convert` writes it; None for any other run."""
    if isinstance(source, Run):
        return _read_origin(source.origin) if source.origin.exists() else None
    known = KNOWN.get(source.name)
    own_set = (known.name, known.split_by) if known and not known.is_mixed else None
    return Origin(source.name, sha256(source), own_set)


def _read_origin(path: Path) -> Origin:
    try:
        return config_from_dict(read_json(path), Origin)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; convert the released file again, to another folder") from error


def read_checkpoint(path: Path) -> Mapping:
    """What the file holds; tensors of a zip stay in the file until they are used.

    Raises ValueError for what is no checkpoint, cut short, or holds more than tensors and plain values.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)
    with path.open("rb") as file:
        start = file.read(8)
    if not start.startswith((b"PK\3\4", b"\x80")):  # a zip or a bare pickle
        raise ValueError(f"{path}: not a checkpoint of PyTorch, it begins with {start!r}; fetch it again")
    try:
        if is_zip := zipfile.is_zipfile(path):
            _check_members(path)
        with torch.serialization.safe_globals(PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))  # the rest advises to run whatever the file says
        held = f"it names {found[1]}" if found else "or it is damaged, or a plain pickle"
        raise ValueError(
            f"{path}: refused, more than tensors and plain values: {held}. Nothing of it was run. If it is your own,"
            " save its tensors alone: torch.save({'model': model.state_dict()}, FILE)"
        ) from error
    except Exception as error:  # a damaged pickle fails as whatever it was read as
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: not a readable checkpoint, cut short or damaged; fetch it again ({why})") from error


def _check_members(path: Path) -> None:
    """What torch does not look at in a file that it maps: whether each member is stored as it is, and whole. Not asked
    of a file whose published checksum has been compared."""
    known = KNOWN.get(path.name)
    if known and known.sha256:
        return
    with zipfile.ZipFile(path) as archive:
        packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
        if broken := (packed[0] if packed else archive.testzip()):
            raise zipfile.BadZipFile(f"{broken} is {'compressed' if packed else 'not what its checksum says'}")


def _fetch(name: str) -> Path:
    *repository, file = name.split("/")
    if name not in KNOWN and len(repository) != 2:
        forms = f"its path, OWNER/REPOSITORY/FILE on the hub, or one of {', '.join(KNOWN)}"
        raise FileNotFoundError(f"{name}: no such checkpoint; give {forms}")
    try:
        return Path(hf_hub_download("/".join(repository) or REPOSITORY, file))
    except Exception as error:  # the hub's client raises many kinds when there is no network or no such name
        raise FileNotFoundError(
            f"{name} is no file here, and not to be had from the Hugging Face hub ({type(error).__name__}); without a "
            "network, copy it here and give its path"
        ) from error


def sha256(path: Path) -> str:
    """The file's checksum, in hexadecimal digits; a file that has not changed since is not read again."""
    stat = path.stat()
    return _sha256(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
