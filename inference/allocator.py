"""One process-wide setting of the C library's allocator, which large temporaries need.

glibc hands every block above a threshold straight back to the system, and the next one is faulted in again page by
page. A batched Jacobian of a 14,641-pixel image spends nine tenths of its time there. With the thresholds raised,
freed blocks are kept.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4


@lru_cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next temporary. Once per process; True where it was possible."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # a C library without mallopt, as musl
        return False
    kept = mallopt(_M_TRIM_THRESHOLD, 2**30) == 1
    # the mmap threshold can't be raised beyond 32 MiB, so larger blocks need mmap off
    return mallopt(_M_MMAP_THRESHOLD, 2**25) == 1 and mallopt(_M_MMAP_MAX, 0) == 1 and kept
