"""How many threads the arithmetic uses: one for each batch of points, and as many batches at a time as there are cores.

Nothing depends on their number: batches are cut by the size of their arrays alone, and each is one thread's work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs its block on one thread, so that sums round the same way on any number of cores.

    Measured on two cores, a second thread takes a fifth off a batch of four 121x121 images: hand-overs between
    operations of 20 microseconds eat the rest. Several galaxies in several processes use cores better.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def side_by_side(function: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
    """`function` of each of `parts`, on as many threads as there are cores.

    It pays for functions that leave Python alone for a millisecond or more: graphs run by TorchScript's interpreter.
    """
    with one_thread():
        # a process that was forked has none of its parent's threads
        return list(_workers(os.getpid()).map(function, parts))


@lru_cache(maxsize=1)
def _workers(process: int) -> ThreadPoolExecutor:
    cores = len(os.sched_getaffinity(process)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(cores, thread_name_prefix="bayesprof")
