"""Measure the duration of a call."""

import time
from collections.abc import Callable


def seconds(call: Callable[[], object]) -> float:
    """Return the duration of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
