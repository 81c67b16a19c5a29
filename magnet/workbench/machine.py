"""What the machine can do, measured: matrix products and copies; and the memory a process has taken at most."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from magnet.optimizer import has_bfloat16

GEMM, COPY = {"cpu": 1536, "cuda": 8192}, {"cpu": 64 * 2**20, "cuda": 2 * 2**30}  # rows of the matrices; bytes
_STATUS = Path("/proc/self/status")


def works(device: torch.device) -> dict[str, tuple[Callable, float, str]]:
    """Name -> what to time, how much that does, and the unit of the rate: GFLOP/s of square matrix products in the
    precisions that the hardware has, GB/s of a copy, reading and writing."""
    rows, num_bytes = GEMM[device.type], COPY[device.type]
    kinds = [torch.float32, *([torch.bfloat16] if has_bfloat16(device) else [])]
    much = (2 * rows**3 / 1e9, "GFLOP/s")
    made = {f"gemm {str(kind).removeprefix('torch.')}": (_product(rows, kind, device), *much) for kind in kinds}
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return made | {"copy": (lambda: target.copy_(source), 2 * num_bytes / 1e9, "GB/s")}


def _product(rows: int, kind: torch.dtype, device: torch.device) -> Callable:
    a, b = (torch.randn(rows, rows, device=device).to(kind) for _ in range(2))
    return lambda: a @ b


def seconds(work: Callable, device: torch.device) -> float:
    """Until a GPU has done it, too."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def peaks(device: torch.device) -> dict[str, float]:
    """GFLOP/s and GB/s of all `works`, the best of three; in their own precisions under autocast, too."""
    timed = works(device).items()
    with torch.autocast(device.type, enabled=False):
        return {name: much / min(seconds(work, device) for _ in range(3)) for name, (work, much, _) in timed}


def wait(device: torch.device) -> None:
    """Until the GPU has done what it was told; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory_gb() -> float:
    """The most that was in use: of the GPU, or of this process. What the system tells of a process may also hold what
    the one that started it had in use then; where it tells more (Linux), not."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    if _STATUS.exists():
        kilobytes = next(line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kilobytes) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
