"""Handle lines that break the format: stop at the first one, or write all of them to a file unchanged."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from dlrm_adahessian.errors import DataError
from dlrm_adahessian.runs.files import replacing
from dlrm_adahessian.runs.sealed import storage_errors

_MAX_REJECT = 1 << 28  # bytes of one quarantined line; longer input is not text, or is a decompression bomb
_EXPLAINED = 1000  # lines whose reasons are counted; finding one reason costs as much as parsing many lines


class Reason(NamedTuple):
    """Why a line is bad: the rule it breaks, and the full text with its location and the value found."""

    rule: str
    told: str


class BadLines:
    """Collect the bad lines of an input in order: raise at the first one, or write all of them to a file.

    Attributes:
        count: number of bad lines so far.
        first: location and reason of the first bad line.
    """

    def __init__(self, quarantine: Path | None = None) -> None:
        self.count = 0
        self.first: str | None = None
        self._rules: Counter[str] = Counter()
        self._path = quarantine or Path()
        self._stack = ExitStack()
        with storage_errors(self._path):
            self._file = self._stack.enter_context(replacing(quarantine)) if quarantine else None
        self._open = False  # the last line has no newline yet
        self._bytes = 0  # length of the last line

    @property
    def most_frequent(self) -> str | None:
        """The rule that most of the first thousand bad lines break."""
        return max(self._rules, key=self._rules.__getitem__, default=None)

    def reject(self, raw: bytes, explain: Callable[[], Reason]) -> None:
        """Add a bad line.

        Args:
            raw: the line, with its newline if it has one; `extend` adds more of a long line.
            explain: returns why the line is bad, and where it is.

        Raises:
            DataError: there is no quarantine file.
        """
        if self._file is None:
            raise DataError(
                f"{explain().told}. Fix the line, or move bad lines to a separate file with --bad-rows quarantine."
            )
        if self.count < _EXPLAINED:
            reason = explain()
            self.first = self.first or reason.told
            self._rules[reason.rule] += 1
        self.count += 1
        self._bytes = 0
        # The last line of a file may lack its newline, and the next file may bring more bad lines.
        self.extend(b"\n" + raw if self._open else raw)

    def extend(self, raw: bytes) -> None:
        """Add more bytes of the last line, which is too long to keep in memory.

        Args:
            raw: the next bytes of the line.

        Raises:
            DataError: the line is so long that the input is not text.
        """
        self._bytes += len(raw)
        if self._bytes > _MAX_REJECT:
            raise DataError(f"A line is longer than {_MAX_REJECT} bytes. Pass a text file.")
        if self._file:
            with storage_errors(self._path):
                self._file.write(raw)
        self._open = not raw.endswith(b"\n")

    def told(self, good: int) -> str:
        """Return how many lines are bad, next to `good` valid ones, and why the first one is bad."""
        return f"{self.count:,} of {good + self.count:,} lines are bad. First bad line: {self.first}"

    def close(self) -> None:
        """Close the file and move it to its final name. A second call does nothing."""
        with storage_errors(self._path):
            self._stack.close()
