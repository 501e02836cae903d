"""How far a run is, what it took, and what ends it early: a request to stop, or that it cannot learn.

A step whose loss or a derivative is not finite is skipped. After some in a row the run goes back to its newest checkpoint,
since what spoiled it may have passed: a fault of the memory, say. It goes back to a checkpoint once. When it would have to a
second time, going back does not help, and it has diverged: even if it failed at another step, as it may where sums are not
the same twice. So each time that it goes back it has got as far as another checkpoint, and going back ends.
"""

import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn, Self, TypedDict

import pydantic

from dlrm_adahessian.errors import CheckpointError, DivergedError
from dlrm_adahessian.runtime.process import seconds_without_core
from dlrm_adahessian.runtime.signals import stopping

_MAX_TIMES = 100_000  # step times kept for the median
_BLOCK = (
    64  # steps whose mean is one time of the median: what every eighth step does, as curvature, counts too
)


@dataclass
class Progress:
    """What a run knows beside its tensors; all of it is in a checkpoint.

    Attributes:
        step: steps done, skipped ones too.
        skipped: steps that were not learned, of those that count: what was undone does not.
        skipped_in_a_row: the last ones of them.
        rollbacks: how often the run went back to a checkpoint.
        rolled_back_to: the step of the newest checkpoint that it went back to, 0 for none.
        best_logloss: of all evaluations on validation samples.
        evaluations_since_best: after that one.
        stopped_early: for want of a better evaluation.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    rollbacks: int = 0
    rolled_back_to: int = 0
    best_logloss: float | None = None
    evaluations_since_best: int = 0
    stopped_early: bool = False

    def skip(self) -> None:
        """Count the step just done as not learned."""
        self.skipped += 1
        self.skipped_in_a_row += 1

    def learned(self) -> None:
        """Count the step just done as learned."""
        self.skipped_in_a_row = 0

    def may_go_back_to(self, step: int) -> bool:
        """Whether the checkpoint of a step is newer than all that the run went back to."""
        return step > self.rolled_back_to

    def went_back_from(self, before: "Progress") -> None:
        """Count that a run that had come as far as `before` goes on from here."""
        self.rollbacks, self.rolled_back_to = before.rollbacks + 1, self.step
        # A checkpoint that a signal asked for may lie amid skipped steps. Those stay skipped, they changed no tensor; were
        # they counted again, fewer new ones would end the run.
        self.skipped_in_a_row = 0


class StepTimes(TypedDict):
    """What a clock measured, as `TrainingCost` of results.py has it."""

    seconds: float
    samples_per_second: float
    step_ms_median: float
    waited_share: float | None


class StepClock:
    """Time spent in steps, over all sittings of a run; a checkpoint has its state."""

    def __init__(self) -> None:
        self.seconds, self.samples, self.median = 0.0, 0, 0.0
        self._recent: deque[float] = deque(maxlen=_MAX_TIMES)
        self._began, self._waited_before = time.monotonic(), seconds_without_core()

    def add(self, seconds: float, samples: int) -> None:
        """Count a step."""
        self.seconds += seconds
        self.samples += samples
        self._recent.append(seconds)

    def summary(self) -> StepTimes:
        """Return the figures of summary.json; the median is that of this sitting, if it has steps."""
        if self._recent:
            self.median = _median_of_blocks(list(self._recent))
        return {
            "seconds": self.seconds,
            "samples_per_second": self.samples / self.seconds if self.seconds else 0.0,
            "step_ms_median": 1e3 * self.median,
            "waited_share": self._waited_share(),
        }

    def _waited_share(self) -> float | None:
        """Return the share of this sitting that was spent waiting for a core; None without steps, or if it is not known."""
        waited, elapsed = seconds_without_core(), time.monotonic() - self._began
        if waited is None or self._waited_before is None or not self._recent:
            return None
        return (waited - self._waited_before) / elapsed

    def state(self) -> dict[str, float | int]:
        """Return what `load` takes."""
        self.summary()
        return {"seconds": self.seconds, "samples": self.samples, "median": self.median}

    def load(self, state: Mapping[str, float | int]) -> None:
        """Go on from what `state` returned."""
        self.seconds, self.samples = state["seconds"], int(state["samples"])
        self.median = state["median"]


def _median_of_blocks(times: Sequence[float]) -> float:
    """Return the median of the means of whole blocks of times; of fewer times their mean."""
    whole = len(times) - len(times) % _BLOCK
    blocks = [times[first : first + _BLOCK] for first in range(0, whole, _BLOCK)]
    return statistics.median(map(statistics.fmean, blocks or [times]))


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a checkpoint keeps beside tensors.

    Attributes:
        progress: of the run.
        metrics_bytes: length of metrics.jsonl.
        progressive_rows: predictions of progressive validation.
        timing: state of the clock.
        metrics_xxh3_128: digest of metrics.jsonl; absent in older checkpoints, like those below.
        progressive_xxh3_128: digest of these predictions.
        window: state of the window of recent predictions.
    """

    progress: Progress
    metrics_bytes: int
    progressive_rows: int
    timing: dict[str, float]
    metrics_xxh3_128: str | None = None
    progressive_xxh3_128: str | None = None
    window: dict[str, int | str] | None = None

    @classmethod
    def of(cls, state: Mapping[str, Any], origin: object) -> Self:
        """Check what `origin`, a checkpoint that somebody may have made up, says; keys of other versions are passed over.

        Args:
            state: its JSON values.
            origin: its folder.

        Returns:
            The values.

        Raises:
            CheckpointError: one is absent or of another type.
        """
        try:
            return pydantic.TypeAdapter(cls).validate_python(state)
        except pydantic.ValidationError as error:
            wrong = error.errors()[0]
            raise CheckpointError(
                f"the state of {origin} must be a run's, and {'.'.join(map(str, wrong['loc']))} is not: {wrong['msg']}; "
                "remove it to use the one before it, or start anew with another --out"
            ) from error


def diverged(progress: Progress, why: str, *, dense_lr: float, rows_lr: float) -> DivergedError:
    """Return the error that ends a run.

    Args:
        progress: of the run.
        why: it does not go back to a checkpoint, in words that follow "and".
        dense_lr: learning rate of the dense part, likely too high.
        rows_lr: of the rows.
    """
    return DivergedError(
        f"the loss and its derivatives must be finite, and those of {progress.skipped_in_a_row} steps in a row, up to step "
        f"{progress.step}, are not, and {why}; the likely cause is a learning rate that is too high (dense {dense_lr:g}, "
        f"rows {rows_lr:g}): lower --optim.dense.lr and --optim.rows.lr, or add warm-up with --optim.schedule.warmup 0.05"
    )


class StopRequest:
    """Signals as Ctrl-C as a request: the step under way ends, a checkpoint is written, then the process leaves.

    Within the context, the first signal is a request; a second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.received = 0  # the number of the signal, once one has come
        self._before: dict[signal.Signals, object] = {}

    def leave(self, number: int) -> NoReturn:
        """Exit as a shell expects after a signal, which may have come to another rank: 128 and its number."""
        sys.exit(128 + number)

    def __enter__(self) -> Self:
        for number in stopping():
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
