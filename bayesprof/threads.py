"""How many threads the arithmetic uses: one.

Several images, batches of points or galaxies at a time use the cores of a machine better
(:mod:`bayesprof.inference.threads`), and sums round alike on any number of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs its block on one thread, so that sums round the same way on any number of cores.

    Measured on two cores, a second thread takes a fifth off a batch of four 121x121 images: hand-overs between
    operations of 20 microseconds eat the rest; where the other core is busy, they make all of it many times slower.
    Several galaxies in several processes use cores better.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
