"""Room on a disk: asked for before a large file is written, and said in words where it runs out all the same."""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def require_room(folder: Path, num_bytes: int, what: str) -> None:
    """Raises OSError (ENOSPC) where `folder` has less than `num_bytes` free, which `what` needs."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise OSError(errno.ENOSPC, f"{folder} has {free:,} bytes free, {what} needs {num_bytes:,}")


@contextmanager
def explained(left: Callable[[], str]) -> Iterator[None]:
    """A disk that fills up inside is an OSError that says so, and `left()`: what is kept of the work, what to do."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(errno.ENOSPC, f"the disk is full; {left()}") from error
