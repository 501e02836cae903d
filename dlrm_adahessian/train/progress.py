"""Track the progress and step times of a run, and end it early after a signal or divergence.

A step is skipped if its loss or a derivative is not finite. After several skipped steps in a row, the run goes back to its
newest checkpoint, because the cause may have been temporary, such as a memory fault. It goes back to each checkpoint only
once. If it would have to do so a second time, even after failing at a different step, it has diverged. So between two
rollbacks the run always reaches a new checkpoint, and the number of rollbacks is bounded.
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
_BLOCK = 64  # steps averaged into one time before the median, to include work done every few steps, such as curvature


@dataclass
class Progress:
    """The state of a run besides its tensors. A checkpoint contains all of it.

    Attributes:
        step: number of steps done, including skipped ones.
        skipped: number of skipped steps, not counting those that a rollback undid.
        skipped_in_a_row: number of steps skipped since the last step that was not.
        rollbacks: number of times the run went back to a checkpoint.
        rolled_back_to: step of the newest checkpoint the run went back to; 0 for none.
        best_logloss: lowest log loss of all evaluations on validation samples.
        evaluations_since_best: number of evaluations after that one.
        stopped_early: whether `patience` ended the run.
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
        """Count the current step as skipped."""
        self.skipped += 1
        self.skipped_in_a_row += 1

    def learned(self) -> None:
        """Count the current step as learned."""
        self.skipped_in_a_row = 0

    def may_go_back_to(self, step: int) -> bool:
        """Return whether the checkpoint of a step is newer than every checkpoint the run went back to."""
        return step > self.rolled_back_to

    def went_back_from(self, before: "Progress") -> None:
        """Count a rollback from the state `before` to this one."""
        self.rollbacks, self.rolled_back_to = before.rollbacks + 1, self.step
        # A checkpoint written after a signal may have skipped steps before it. They changed no tensor and stay skipped.
        # If they still counted here, fewer new skipped steps would end the run.
        self.skipped_in_a_row = 0


class StepTimes(TypedDict):
    """Times measured by a clock, as fields of `TrainingCost` in results.py."""

    seconds: float
    samples_per_second: float
    step_ms_median: float
    waited_share: float | None


class StepClock:
    """Measure the time spent in steps, across all resumes of a run. A checkpoint contains its state."""

    def __init__(self) -> None:
        self.seconds, self.samples, self.median = 0.0, 0, 0.0
        self._recent: deque[float] = deque(maxlen=_MAX_TIMES)
        self._began, self._waited_before = time.monotonic(), seconds_without_core()

    def add(self, seconds: float, samples: int) -> None:
        """Add a step."""
        self.seconds += seconds
        self.samples += samples
        self._recent.append(seconds)

    def summary(self) -> StepTimes:
        """Return the times for summary.json. The median covers the steps since the last resume, if there are any."""
        if self._recent:
            self.median = _median_of_blocks(list(self._recent))
        return {
            "seconds": self.seconds,
            "samples_per_second": self.samples / self.seconds if self.seconds else 0.0,
            "step_ms_median": 1e3 * self.median,
            "waited_share": self._waited_share(),
        }

    def _waited_share(self) -> float | None:
        """Return the share of time since the last resume spent waiting for a core; None without steps or if unknown."""
        waited, elapsed = seconds_without_core(), time.monotonic() - self._began
        if waited is None or self._waited_before is None or not self._recent:
            return None
        return (waited - self._waited_before) / elapsed

    def state(self) -> dict[str, float | int]:
        """Return the state for `load`."""
        self.summary()
        return {"seconds": self.seconds, "samples": self.samples, "median": self.median}

    def load(self, state: Mapping[str, float | int]) -> None:
        """Continue from a result of `state`."""
        self.seconds, self.samples = state["seconds"], int(state["samples"])
        self.median = state["median"]


def _median_of_blocks(times: Sequence[float]) -> float:
    """Return the median over the means of complete blocks, or the mean if there is no complete block."""
    whole = len(times) - len(times) % _BLOCK
    blocks = [times[first : first + _BLOCK] for first in range(0, whole, _BLOCK)]
    return statistics.median(map(statistics.fmean, blocks or [times]))


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The state that a checkpoint keeps besides tensors.

    Attributes:
        progress: progress of the run.
        metrics_bytes: length of metrics.jsonl.
        progressive_rows: number of predictions of progressive validation.
        timing: state of the clock.
        metrics_xxh3_128: digest of metrics.jsonl. Older checkpoints lack it and the fields below.
        progressive_xxh3_128: digest of the progressive predictions.
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
        """Validate the state in a checkpoint, which may be corrupt or forged. Keys of other versions are ignored.

        Args:
            state: JSON values from the checkpoint.
            origin: folder of the checkpoint.

        Returns:
            The validated state.

        Raises:
            CheckpointError: a value is missing or has the wrong type.
        """
        try:
            return pydantic.TypeAdapter(cls).validate_python(state)
        except pydantic.ValidationError as error:
            wrong = error.errors()[0]
            raise CheckpointError(
                f"Invalid state in checkpoint {origin}, {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}. Remove this "
                "checkpoint to use the one before it, or choose another --out to start again."
            ) from error


def diverged(progress: Progress, why: str, *, dense_lr: float, rows_lr: float) -> DivergedError:
    """Return the error that ends a run.

    Args:
        progress: progress of the run.
        why: sentence that says why the run cannot go back to a checkpoint.
        dense_lr: learning rate of the dense part, probably too high.
        rows_lr: learning rate of the embedding rows.
    """
    return DivergedError(
        f"The loss or its derivatives were not finite in {progress.skipped_in_a_row} steps in a row, up to step "
        f"{progress.step}. {why} The learning rate is probably too high (dense {dense_lr:g}, rows {rows_lr:g}). Lower "
        f"--optim.dense.lr and --optim.rows.lr, or add warm-up with --optim.schedule.warmup 0.05."
    )


class StopRequest:
    """Turn a signal such as Ctrl-C into a request: finish the step, write a checkpoint, then exit.

    Inside the context, the first signal is a request. A second Ctrl-C interrupts immediately.
    """

    def __init__(self) -> None:
        self.received = 0  # number of the signal; 0 for none
        self._before: dict[signal.Signals, object] = {}

    def leave(self, number: int) -> NoReturn:
        """Exit with 128 plus the number of the signal, as shells expect. Another rank may have received it."""
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
