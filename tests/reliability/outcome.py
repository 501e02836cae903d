"""What a campaign found: how often it tried, what was lost, and what went wrong without a word."""

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

_SHOWN = 20  # failures that are kept word for word


@dataclass
class Outcome:
    """One line of the rules, tried.

    Attributes:
        line: its number in docs/reliability.md.
        tried: what was done.
        times: how often; 0 when it could not be tried here.
        lost: of these, how often the rule was broken and the program said so: no recovery, a wrong exit code.
        silent: how often it went on with something wrong and said nothing.
        seconds: all of it.
        failures: the first of the lost and the silent, in words.
        figures: what else was measured.
        skipped: why it could not be tried here.
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
        """Whether nothing was lost."""
        return not self.lost and not self.silent

    def lose(self, what: str) -> None:
        """Count a broken rule that the program told of, or that anybody would notice."""
        self.lost += 1
        self._note(what)

    def miss(self, what: str) -> None:
        """Count something wrong that nobody was told of."""
        self.silent += 1
        self._note(what)

    def expect(self, holds: bool, what: str) -> None:
        """Count a try, and a loss where the rule did not hold."""
        self.times += 1
        if not holds:
            self.lose(what)

    def asdict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    def _note(self, what: str) -> None:
        if len(self.failures) < _SHOWN:
            # What the program printed may have line ends, and hostile names bring escapes for the terminal.
            self.failures.append(printable_name(what))


class Progress:
    """A bar on the terminal, of tries."""

    def __init__(self, outcome: Outcome, total: int | None) -> None:
        """Show `outcome` on its way to `total` tries."""
        self._outcome = outcome
        self._bar: Any = tqdm(
            desc=f"{outcome.line:>2} {outcome.tried}"[:60], total=total, disable=not sys.stderr.isatty()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self) -> None:
        """Bring the bar up to date."""
        self._bar.set_postfix(lost=self._outcome.lost, silent=self._outcome.silent)
        self._bar.update(self._outcome.times - self._bar.n)


@contextmanager
def counting(line: int, tried: str, total: int | None = None) -> Iterator[tuple[Outcome, Callable[[], None]]]:
    """Time a block that fills in an outcome.

    Yields:
        The outcome, and what to call after each try.
    """
    outcome = Outcome(line=line, tried=tried)
    began = time.perf_counter()
    with Progress(outcome, total) as progress:
        yield outcome, progress.show
    outcome.seconds = time.perf_counter() - began


@contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """Collect what a logger and those below it warn of, whatever the campaigns otherwise keep quiet.

    Yields:
        The warnings, which grow.
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
"""Tries something so many times in an empty folder."""
