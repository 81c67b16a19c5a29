"""How an allocation that fails shows itself: every library has a way of its own."""

_SAID = (
    "can't allocate memory", "not enough memory",  # torch on a CPU, on Linux and on Windows
    "CUDA error: out of memory", "ALLOC_FAILED", "std::bad_alloc",  # CUDA, its libraries, C++
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Also torch's own OutOfMemoryError, a RuntimeError, and NumPy's, a MemoryError."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or any(said in str(error) for said in _SAID)
