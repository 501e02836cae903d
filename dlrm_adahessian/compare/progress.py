# pyright: basic
"""Show the progress of a comparison: a bar over the samples of all runs, and a line while waiting for other processes."""

import logging
import math
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dlrm_adahessian.runs.finished import PROGRESSIVE
from dlrm_adahessian.runs.lease import Holder
from dlrm_adahessian.runtime.terminal import progress_bar

logger = logging.getLogger(__name__)

_TELL_EVERY = 60.0  # seconds between two lines about runs of other processes


class StudyBar:
    """A progress bar over the samples of all runs, read from the files of the running processes."""

    def __init__(self, runs: int, rows: int) -> None:
        self._runs, self._rows, self._done = runs, rows, 0
        self._running: set[Path] = set()
        self._elsewhere: dict[Path, Holder] = {}
        self._told = -math.inf
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._bar = progress_bar(f"{runs} runs", unit=" samples", total=runs * rows)

    def __enter__(self) -> "StudyBar":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._bar.close()

    def started(self, folder: Path) -> None:
        """Start to watch a run."""
        with self._lock:
            self._running.add(folder)

    @contextmanager
    def elsewhere(self, folder: Path, holder: Holder) -> Generator[None]:
        """Mark a run as trained by another process until the block ends. If only such runs are left, log it."""
        self._elsewhere[folder] = holder
        if len(self._elsewhere) == len(self._running) and time.monotonic() - self._told > _TELL_EVERY:
            self._told = time.monotonic()
            holders = ", ".join(sorted({*map(str, self._elsewhere.values())}))
            logger.info(
                "%d of %d runs are done. Waiting for %d trained by other processes: %s",
                self._done,
                self._runs,
                len(self._elsewhere),
                holders,
            )
        try:
            yield
        finally:
            self._elsewhere.pop(folder, None)

    def finished(self, folder: Path) -> None:
        """Count a run as done."""
        with self._lock:
            self._running.discard(folder)
            self._done += 1

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            with self._lock:
                predicted = [folder / PROGRESSIVE for folder in self._running]
                rows = self._done * self._rows
                self._bar.set_postfix_str(f"{self._done} of {self._runs} runs done", refresh=False)
            rows += sum(path.stat().st_size // 4 for path in predicted if path.exists())
            self._bar.n = min(self._bar.total, rows)
            self._bar.refresh()
