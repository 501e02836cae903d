"""What happens to a line or row that breaks the format: it stops the reading, or it is put aside unchanged."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from dlrm_adahessian.errors import DataError
from dlrm_adahessian.runs.files import replacing
from dlrm_adahessian.runs.sealed import storage_errors

_MAX_REJECT = 1 << 28  # bytes of one line put aside; a longer one is no text, or an unpacked bomb
_EXPLAINED = 1000  # lines whose reasons are counted; to find one takes as long as to parse many lines


class Reason(NamedTuple):
    """Why a line is bad: the rule that it breaks, and all that is told of it, with its place and the value found."""

    rule: str
    told: str


class BadLines:
    """Takes the bad lines of an input, in order: refuses the first one, or writes all to a file.

    Attributes:
        count: lines taken so far.
        first: place and reason of the first one.
    """

    def __init__(self, quarantine: Path | None = None) -> None:
        self.count = 0
        self.first: str | None = None
        self._rules: Counter[str] = Counter()
        self._path = quarantine or Path()
        self._stack = ExitStack()
        with storage_errors(self._path):
            self._file = self._stack.enter_context(replacing(quarantine)) if quarantine else None
        self._open = False  # the line taken last has no newline
        self._bytes = 0  # of that line

    @property
    def most_frequent(self) -> str | None:
        """The rule that most of the first thousand lines break."""
        return max(self._rules, key=self._rules.__getitem__, default=None)

    def reject(self, raw: bytes, explain: Callable[[], Reason]) -> None:
        """Take a bad line.

        Args:
            raw: the line with its newline if it has one; more of it may follow by `extend`.
            explain: says why it is bad, and where.

        Raises:
            DataError: bad lines are not put aside.
        """
        if self._file is None:
            raise DataError(
                f"{explain().told}; repair the line, or put bad lines aside with --bad-rows quarantine"
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
        """Take more bytes of the same line, which is too long to be held in memory.

        Args:
            raw: what follows.

        Raises:
            DataError: the line is so long that the input is no text.
        """
        self._bytes += len(raw)
        if self._bytes > _MAX_REJECT:
            raise DataError(f"no line may be longer than {_MAX_REJECT} bytes and one is; give a text file")
        if self._file:
            with storage_errors(self._path):
                self._file.write(raw)
        self._open = not raw.endswith(b"\n")

    def told(self, good: int) -> str:
        """Say how many of the lines are bad, of which `good` others were read, and why the first one is."""
        return f"{self.count:,} of {good + self.count:,} lines are bad, the first: {self.first}"

    def close(self) -> None:
        """Close the file, which then has its name; a second call does nothing."""
        with storage_errors(self._path):
            self._stack.close()
