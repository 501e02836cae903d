"""How long a call takes."""

import time
from collections.abc import Callable


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call took."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
