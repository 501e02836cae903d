"""Write a large file past the page cache.

Nothing reads a checkpoint soon, and putting gigabytes into the page cache takes the processor from the steps: on a virtual
machine 6 s for 2 GB, where the disk takes the same from memory in 0.9 s and the processor 0.2 (docs/checkpoints.md).
"""

import errno
import fcntl
import mmap
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import BinaryIO

import numpy as np

BLOCK = 4 << 20  # bytes at once; a multiple of every disk's sectors


def write_past_cache(file: BinaryIO, parts: Iterable[bytes | memoryview]) -> None:
    """Write parts one after another; where the file system wants the page cache, through it.

    Args:
        file: new and unbuffered.
        parts: of any sizes.
    """
    # Mapped memory begins at a page, as the disk needs it.
    buffer = np.frombuffer(mmap.mmap(-1, BLOCK), np.uint8)
    filled = 0
    _set_direct(file, direct=True)
    for part in parts:
        rest = np.frombuffer(part, np.uint8)
        while len(rest):
            taken = min(len(rest), BLOCK - filled)
            buffer[filled : filled + taken] = rest[:taken]
            filled += taken
            rest = rest[taken:]
            if filled == BLOCK:
                _write_all(file, buffer.data)
                filled = 0
    _set_direct(file, direct=False)  # the end is no whole block
    _write_all(file, buffer.data[:filled])


def _write_all(file: BinaryIO, block: memoryview) -> None:
    while block:
        try:
            block = block[file.write(block) :]
        except OSError as error:
            # The disk took a part before, and what is left does not begin or end where it wants.
            if error.errno != errno.EINVAL or not _set_direct(file, direct=False):
                raise


def _set_direct(file: BinaryIO, *, direct: bool) -> bool:
    """Write past the page cache from now on, or through it; return whether that changed anything."""
    flag = getattr(os, "O_DIRECT", 0)  # Linux has it
    before = fcntl.fcntl(file, fcntl.F_GETFL)
    with suppress(OSError):  # not every file system can
        fcntl.fcntl(file, fcntl.F_SETFL, before | flag if direct else before & ~flag)
    return fcntl.fcntl(file, fcntl.F_GETFL) != before
