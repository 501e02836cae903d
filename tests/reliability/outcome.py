"""Outcome of a campaign: number of tries, losses, and silent errors."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from dlrm_adahessian.runtime.terminal import printable_name

_SHOWN = 20  # maximum number of failures kept in full


@dataclass
class Outcome:
    """The outcome for one rule.

    Attributes:
        line: number of the rule in docs/reliability.md.
        tried: what the campaign did.
        times: number of tries; 0 if it could not run here.
        lost: number of tries in which the rule was broken visibly, for example by a wrong exit code.
        silent: number of tries in which the program continued with an error and did not report it.
        seconds: total duration.
        failures: descriptions of the first lost and silent tries.
        figures: other measurements.
        skipped: reason why it could not run here.
    """

    line: int
    tried: str
    times: int = 0
    lost: int = 0
    silent: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list[str])
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    skipped: str | None = None

    @property
    def good(self) -> bool:
        """Whether no try was lost or silent."""
        return not self.lost and not self.silent

    def lose(self, what: str) -> None:
        """Count a visible failure, which the program reported or anyone would notice."""
        self.lost += 1
        self._note(what)

    def miss(self, what: str) -> None:
        """Count a failure that nobody would notice."""
        self.silent += 1
        self._note(what)

    def expect(self, holds: bool, what: str) -> None:
        """Count a try, and a loss if the rule did not hold."""
        self.times += 1
        if not holds:
            self.lose(what)

    def asdict(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return asdict(self)

    def _note(self, what: str) -> None:
        if len(self.failures) < _SHOWN:
            # Program output may contain line ends, and hostile names contain terminal escapes.
            self.failures.append(printable_name(what))


class Progress:
    """A progress bar of tries."""

    def __init__(self, outcome: Outcome, total: int | None) -> None:
        """Show the progress of `outcome` to `total` tries."""
        self._outcome = outcome
        self._bar: Any = tqdm(
            desc=f"{outcome.line:>2} {outcome.tried}"[:60], total=total, disable=not sys.stderr.isatty()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self) -> None:
        """Update the bar."""
        self._bar.set_postfix(lost=self._outcome.lost, silent=self._outcome.silent)
        self._bar.update(self._outcome.times - self._bar.n)


@contextmanager
def counting(line: int, tried: str, total: int | None = None) -> Iterator[tuple[Outcome, Callable[[], None]]]:
    """Measure the time of a block that fills an outcome.

    Yields:
        The outcome, and a function to call after each try.
    """
    outcome = Outcome(line=line, tried=tried)
    began = time.perf_counter()
    with Progress(outcome, total) as progress:
        yield outcome, progress.show
    outcome.seconds = time.perf_counter() - began


@contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """Collect the warnings of a logger and its children, even if the campaigns silence them.

    Yields:
        The list of warnings, which grows during the block.
    """
    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())
    logger, quiet = logging.getLogger(name), logging.root.manager.disable
    logger.addHandler(handler)
    logger.propagate = False
    logging.disable(logging.NOTSET)
    try:
        yield warned
    finally:
        logging.disable(quiet)
        logger.propagate = True
        logger.removeHandler(handler)


Campaign = Callable[[int, Path], Iterator[Outcome]]
"""A function that makes some tries in an empty folder."""
