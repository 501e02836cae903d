"""Sample the memory of a running process, and thin the samples for a plot."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

import psutil

T = TypeVar("T")
_SHOWN = 200  # maximum number of samples in a file of results


def looks(pid: int, every: float) -> Iterator[tuple[float, psutil.Process]]:
    """Yield the process and the seconds since the first sample, until it ends."""
    began = time.perf_counter()
    with suppress(psutil.NoSuchProcess):
        watched = psutil.Process(pid)
        while watched.status() != psutil.STATUS_ZOMBIE:
            yield time.perf_counter() - began, watched
            time.sleep(every)


def resident(process: psutil.Process) -> int:
    """Return the resident bytes without mapped files."""
    memory = process.memory_info()
    return memory.rss - memory.shared


def thinned(looked: Sequence[T]) -> Sequence[T]:
    """Return at most as many samples as a plot can show."""
    return looked[:: max(1, len(looked) // _SHOWN)]
