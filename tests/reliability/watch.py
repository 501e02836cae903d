"""A process looked at while it works, and what the looks are thinned to for a plot."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

import psutil

T = TypeVar("T")
_SHOWN = 200  # looks that a file of results keeps


def looks(pid: int, every: float) -> Iterator[tuple[float, psutil.Process]]:
    """Yield the seconds since the first look, and the process, until it ends."""
    began = time.perf_counter()
    with suppress(psutil.NoSuchProcess):
        watched = psutil.Process(pid)
        while watched.status() != psutil.STATUS_ZOMBIE:
            yield time.perf_counter() - began, watched
            time.sleep(every)


def resident(process: psutil.Process) -> int:
    """Return the bytes resident without mapped files."""
    memory = process.memory_info()
    return memory.rss - memory.shared


def thinned(looked: Sequence[T]) -> Sequence[T]:
    """Return as many looks as a plot can show."""
    return looked[:: max(1, len(looked) // _SHOWN)]
