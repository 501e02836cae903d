"""Ctrl-C and SIGTERM as a request: the step under way ends, a checkpoint is written, then the process leaves."""

import signal
import sys
from types import FrameType
from typing import NoReturn, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within the context, the first signal is a request; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._received is not None

    def leave(self) -> NoReturn:
        """Exit as a shell expects after the signal: 128 and its number."""
        sys.exit(128 + (self._received or 0))

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
