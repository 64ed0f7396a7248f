"""Batches of points side by side: one thread for each, and as many batches at a time as there are cores.

Nothing depends on their number: batches are cut by the size of their arrays alone, and each is one thread's work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from bayesprof.threads import one_thread


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
