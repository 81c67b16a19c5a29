"""A process's memory: that what is freed serves again, and how an allocation that fails shows itself."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # as glibc's malloc.h numbers them, see mallopt(3)
_USUAL = {_TRIM_THRESHOLD: 2**26, _MMAP_THRESHOLD: 2**25, _MMAP_MAX: 2**16}  # where glibc's own settings end up
_KEPT = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0}  # give nothing back, map nothing apart from the rest
_SAID = (
    "can't allocate memory", "not enough memory",  # torch on a CPU, on Linux and on Windows
    "CUDA error: out of memory", "ALLOC_FAILED", "std::bad_alloc",  # CUDA, its libraries, C++
)  # fmt: skip


def keep_freed(keep: bool = True) -> None:
    """Have the process keep large blocks that are freed for its next ones; it then stays as large as it ever was.

    glibc's malloc gives each back to the system, which clears the next one page by page: a third of a training
    step with Swin-B (results/tables/full_size.csv). Without glibc nothing happens. `keep=False` takes it back.
    """
    for name, value in (_KEPT if keep else _USUAL).items():
        _glibc("mallopt", name, value)


def give_back() -> None:
    """What the process keeps and does not use goes to the system: for a process that now waits while others work."""
    _glibc("malloc_trim", 0)


def _glibc(function: str, *arguments: int) -> None:
    found = getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
    if found:
        found(*arguments)


def is_out_of_memory(error: BaseException) -> bool:
    """Also torch's own OutOfMemoryError, a RuntimeError, and NumPy's, a MemoryError."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or any(said in str(error) for said in _SAID)
