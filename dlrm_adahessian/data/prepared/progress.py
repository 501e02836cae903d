"""How far a long preparation has come: bars on a terminal, a log line per stage elsewhere."""

import logging
import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

logger = logging.getLogger(__name__)


class Progress:
    """Counts rows stage by stage.

    Attributes:
        bytes_read: of the input; set by whoever reads it.
        total_bytes: of the input, None when unknown.
    """

    def __init__(self, total_rows: int | None = None) -> None:
        self.bytes_read = 0
        self.total_bytes: int | None = None
        self._total_rows = total_rows
        self._stage = ""
        self._rows = 0
        self._in_bytes = False
        self._started = 0.0
        self._bar: Any = None

    def advance(self, stage: str, rows: int) -> None:
        """Count `rows` more rows of a stage; another stage ends the one before."""
        if stage != self._stage:
            self._end()
            self._begin(stage)
        self._rows += rows
        if self._in_bytes:
            self._bar.set_postfix_str(
                f"{self._rows / (time.monotonic() - self._started):,.0f} rows/s", refresh=False
            )
            self._bar.update(self.bytes_read - self._bar.n)
        else:
            self._bar.update(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the last stage."""
        self._end()

    def _begin(self, stage: str) -> None:
        self._in_bytes = bool(self.bytes_read)
        self._total_rows = self._rows or self._total_rows  # a later stage has the rows of the first
        self._stage, self._rows, self._started = stage, 0, time.monotonic()
        self._bar = tqdm(
            desc=stage,
            total=self.total_bytes if self._in_bytes else self._total_rows,
            unit="B" if self._in_bytes else " rows",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )

    def _end(self) -> None:
        if self._bar is None:
            return
        self._bar.close()
        if self._bar.disable:
            seconds = time.monotonic() - self._started
            logger.info(
                "%s: %d rows in %.1f s, %.0f rows/s", self._stage, self._rows, seconds, self._rows / seconds
            )
        self._bar = None
        self.bytes_read = 0
