"""Ctrl-C and SIGTERM as a request: the step under way ends, a checkpoint is written, then the process leaves."""

import signal
import sys
from types import FrameType
from typing import NoReturn, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within the context, the first signal is a request; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received = 0  # the number of the signal, once one has come
        self._before: dict[signal.Signals, object] = {}

    def leave(self, number: int) -> NoReturn:
        """Exit as a shell expects after a signal, which may have come to another rank: 128 and its number."""
        sys.exit(128 + number)

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
