"""Memory that the process keeps, so that tensors of a step do not cost page faults again and again."""

import ctypes
import sys

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; glibc refuses more
_KEPT = 2**31 - 1  # bytes


def keep_freed_memory() -> None:
    """Let glibc's malloc keep what is freed, up to 2 GiB, instead of returning it to the system; elsewhere do nothing.

    By default each tensor of some megabytes is mapped anew, and the system clears its pages on first use: with batches
    of 128 a quarter of the time of a Hutchinson step.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _KEPT)
