# pyright: basic
"""Trace the time of training steps with torch's profiler, with names for the parts of a step."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from torch._C._autograd import _profiler_enabled
from torch.profiler import profile, record_function, schedule

from dlrm_adahessian.runs.sealed import storage_errors

logger = logging.getLogger(__name__)

T = TypeVar("T")
_UNWATCHED = 8  # steps that compile kernels and allocate memory
_WARM_UP = 2  # further steps for the start of the profiler itself


def named(part: str) -> AbstractContextManager[object]:
    """Return a context that names a part of a step in the trace. It does nothing if no trace is recorded."""
    return record_function(part) if _profiler_enabled() else nullcontext()


def named_each(part: str, items: Iterable[T]) -> Iterator[T]:
    """Yield items, and name the time spent waiting for each one in the trace."""
    items = iter(items)
    while True:
        with named(part):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


@contextmanager
def profiled(file: Path, steps: int) -> Generator[Callable[[], None]]:
    """Trace some steps after a short warm-up.

    Args:
        file: Chrome trace to write, .json.gz. Its folder is created.
        steps: number of steps to trace; 0 for none, at no cost.

    Yields:
        A function to call after each step.
    """
    if not steps:
        yield lambda: None
        return

    def write(found: Any) -> None:
        with storage_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            found.export_chrome_trace(str(file))
        logger.info("trace of %d steps written to %s; open it at https://ui.perfetto.dev", steps, file)

    plan = schedule(wait=_UNWATCHED, warmup=_WARM_UP, active=steps, repeat=1)
    with profile(schedule=plan, on_trace_ready=write) as profiler:
        yield profiler.step
    if profiler.step_num < _UNWATCHED + _WARM_UP:
        logger.warning(
            "no trace was written: it begins after %d steps, and this run made only %d; use more data or more epochs",
            *(_UNWATCHED + _WARM_UP, profiler.step_num),
        )
