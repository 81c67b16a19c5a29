"""Python's work on torch's own threads."""

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def on_all_threads(work: Callable[[], None]) -> None:
    """Call `work` once on each of the threads that torch computes with on a CPU; what one raises is raised here.

    After an operation torch's threads wait busily for the next one for a while, and threads beside them would have to
    share their cores. Where torch's threads are not to be had, there are others.
    """
    threads, raised = torch.get_num_threads(), []

    def kept(_: object = None) -> None:  # from C nothing can be raised
        try:
            work()
        except BaseException as error:
            raised.append(error)

    openmp = getattr(ctypes.CDLL(None), "GOMP_parallel", None) if sys.platform == "linux" else None
    if openmp:
        openmp(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kept), None, threads, 0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(kept, range(threads)))
    try:
        if raised:
            raise raised[0]
    finally:
        raised.clear()  # an error holds this frame, which would hold it
