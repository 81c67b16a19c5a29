"""Work on torch's own threads, and on others where those are not to be had."""

import ctypes
import os
import sys
import threading
from itertools import count

import pytest
import torch

from magnet.threads import on_all_threads


@pytest.fixture(params=["torch's own", "others"])
def threads(request, monkeypatch):
    if request.param == "others":
        monkeypatch.setattr(sys, "platform", "another")
    elif sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        pytest.skip("here torch's threads are not to be had")
    elif os.environ.get("OMP_THREAD_LIMIT") or os.environ.get("OMP_DYNAMIC", "").lower() == "true":
        pytest.skip("here there may be fewer of torch's threads")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


def test_work_is_done_on_each_at_the_same_time(threads):
    together, seen = threading.Barrier(3, timeout=20), set()
    on_all_threads(lambda: (together.wait(), seen.add(threading.get_ident())))  # alone, none would get past
    assert len(seen) == 3


@pytest.mark.parametrize("error", [ValueError("no such map"), KeyboardInterrupt()])
def test_what_one_raises_is_raised_when_all_are_done(threads, error):
    number, done = count(), []

    def work() -> None:
        if next(number) == 1:
            raise error
        done.append(1)

    with pytest.raises(type(error)):
        on_all_threads(work)
    assert len(done) == 2


def test_torch_computes_on_as_before(threads):
    torch.manual_seed(0)
    x, sums = torch.rand(1000, 1000), []
    expected = (x @ x).sum().item()
    for _ in range(3):
        on_all_threads(lambda: sums.append((x @ x).sum().item()))
        sums.append((x @ x).sum().item())
    assert sums == pytest.approx([expected] * 12, rel=1e-3)
