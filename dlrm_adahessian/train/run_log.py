# pyright: basic
"""Write the log of a run during training: metrics, progressive predictions, progress bar, and TensorBoard.

The first rank writes. The other ranks use a log with the same interface that does nothing. Without a terminal for the
progress bar, a line is logged every 30 seconds.
"""

import logging
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dlrm_adahessian.metrics.binary import BinaryMetrics, binary_metrics, check_predictions
from dlrm_adahessian.metrics.means import Weights
from dlrm_adahessian.metrics.ranking import Labels, Probabilities
from dlrm_adahessian.runs.finished import PROGRESSIVE
from dlrm_adahessian.runs.logs import MetricsLog, PredictionLog
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runtime.terminal import progress_bar
from dlrm_adahessian.train.board import Board
from dlrm_adahessian.train.figures import is_logged

_WINDOW_ROWS = 20_000  # samples in the progressive AUC on the progress bar
_LINE_EVERY = 30  # seconds between lines if there is no bar

logger = logging.getLogger(__name__)


class RunLog:
    """The log files and the progress bar of a run."""

    def __init__(self, run: RunDirectory, *, log_every: int, total_steps: int) -> None:
        """Open the files, and continue existing ones.

        Args:
            run: run directory.
            log_every: steps between lines of metrics.jsonl, after the first ones.
            total_steps: number of the last step, which is always logged.
        """
        self._log_every, self._total_steps = log_every, total_steps
        self._stack = ExitStack()
        self._metrics = self._stack.enter_context(MetricsLog(run.metrics))
        self.progressive = self._stack.enter_context(PredictionLog(run.path / PROGRESSIVE))
        self._board = self._stack.enter_context(closing(Board(run.curves)))
        self._window = RecentWindow(_WINDOW_ROWS)
        self._bar: Any = None
        self._title: str | None = None
        self._done = self._total = 0  # samples
        self._told = 0.0  # time of the last progress line, s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(self, title: str | None, *, done: int, total: int) -> None:
        """Show a progress bar that starts at `done` of `total` samples; without a title, show none."""
        self._title, self._done, self._total, self._told = title, done, total, time.monotonic()
        self._bar = self._stack.enter_context(progress_bar(title, unit=" samples", total=total, done=done))

    def learned(
        self,
        step: int,
        loss: float,
        labels: npt.NDArray[np.int8],
        probability: npt.NDArray[np.float32],
        timing: Callable[[], Mapping[str, object]],
        *,
        weights: npt.NDArray[np.float32] | None = None,
        progressive: bool,
        figures: Mapping[str, object] | None = None,
        curvature: Tensor | None = None,
    ) -> None:
        """Log a step.

        Args:
            step: number of the step, from 1.
            loss: mean loss of the batch.
            labels: (B,) labels of all ranks.
            probability: (B,) predictions from before the update.
            timing: function that returns the measured times.
            weights: (B,) weights of all ranks; None for 1 each.
            progressive: whether to keep the predictions.
            figures: figures of the derivatives, if any. A step that is not logged gets a line with only these.
            curvature: (P,) for a histogram, if one is due.
        """
        if progressive:
            self.progressive.append(probability)
        self._window.add(labels, probability, weights)
        self._bar.update(len(probability))
        self._done += len(probability)
        self._tell()
        if curvature is not None:
            self._board.show_curvature(curvature, step)
        if is_logged(step, every=self._log_every, last=self._total_steps):
            self._log(step, loss, figures or {}, timing())
        elif figures:
            self._write({"step": step, **figures})

    def _log(
        self, step: int, loss: float, figures: Mapping[str, object], timing: Mapping[str, object]
    ) -> None:
        recent = self._window.metrics()
        record = {"step": step, "loss": loss, "window_auc": recent.auc, "window_logloss": recent.logloss}
        self._write({**record, **figures}, timing)
        if step == self._total_steps:
            self._bar.total = self._bar.n  # the last batch of an epoch may be smaller
        self._bar.set_postfix_str(f"progressive AUC {_shown(recent.auc)}, log loss {_shown(recent.logloss)}")

    def _write(self, record: Mapping[str, object], timing: Mapping[str, object] | None = None) -> None:
        self._metrics.log(record, timing)
        self._board.show(record)

    def _tell(self) -> None:
        """Log the progress if there is no bar, for example if the output goes to a file."""
        if self._title is None or not self._bar.disable or time.monotonic() < self._told + _LINE_EVERY:
            return
        self._told = time.monotonic()
        done, recent = f"{self._done:,} of {self._total:,}", self._window.metrics().logloss
        logger.info("%s: %s samples, progressive log loss %s", self._title, done, _shown(recent))

    def validated(self, step: int, found: BinaryMetrics, timing: Mapping[str, object]) -> None:
        """Log an evaluation on validation samples."""
        self._write({"step": step, "val": found.asdict()}, timing)

    def went_back(self, step: int, before: int, rollbacks: int, samples: int) -> None:
        """Log a rollback, after the files were rewound to the checkpoint.

        Args:
            step: step of the checkpoint.
            before: last step before the rollback.
            rollbacks: number of rollbacks so far.
            samples: number of samples at `step`.
        """
        self._metrics.log({"step": step, "rollbacks": rollbacks, "rolled_back_at": before})
        self._bar.update(samples - self._bar.n)
        self._done = samples

    def position(self) -> dict[str, Any]:
        """Flush to disk, and return the position for `rewind`."""
        self.progressive.sync()
        return {
            "metrics_bytes": self._metrics.position(),
            "metrics_xxh3_128": self._metrics.digest,
            "progressive_rows": self.progressive.rows,
            "progressive_xxh3_128": self.progressive.digest,
            "window": self._window.state(),
        }

    def rewind(
        self,
        *,
        step: int,
        metrics_bytes: int,
        progressive_rows: int,
        metrics_xxh3_128: str | None = None,
        progressive_xxh3_128: str | None = None,
        window: Mapping[str, Any] | None = None,
    ) -> None:
        """Drop everything after `step`; see `position` for the arguments.

        Older checkpoints lack some of them. Without digests the files are not verified. Without a window its figures start
        from zero.
        """
        self._metrics.rewind(metrics_bytes, metrics_xxh3_128)
        self.progressive.rewind(progressive_rows, progressive_xxh3_128)
        if window is not None:
            self._window.load(window)
        self._board.rewind(step)


class NoLog:
    """Log of a rank that writes nothing, with the methods of `RunLog`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def begin(self, *_: object, **__: object) -> None:
        """Do nothing."""

    def learned(self, *_: object, **__: object) -> None:
        """Do nothing."""

    def validated(self, *_: object) -> None:
        """Do nothing."""

    def went_back(self, *_: object) -> None:
        """Do nothing."""

    def rewind(self, **_: object) -> None:
        """Do nothing."""

    def position(self) -> dict[str, Any]:
        """Return an empty position; checkpoints contain the position of the first rank's log."""
        return {}


class RecentWindow:
    """Metrics of the last `capacity` samples, for the progress bar and metrics.jsonl."""

    def __init__(self, capacity: int) -> None:
        """Create an empty window of `capacity` samples, at least 1."""
        if capacity < 1:
            raise ValueError(
                f"capacity must be at least 1 sample, got {capacity}. 100,000 gives a stable AUC."
            )
        self._labels = np.zeros(capacity, np.int8)
        self._probability = np.zeros(capacity, np.float32)
        self._weights: npt.NDArray[np.float32] | None = None  # allocated when the first weights arrive
        self._next = 0  # slot of the next sample; once the window is full, the oldest one
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, labels: Labels, probability: Probabilities, weights: Weights | None = None) -> None:
        """Add a batch (B,), newest sample last. Raises the ValueError of `check_predictions`."""
        check_predictions(labels, probability, weights)
        capacity = len(self._labels)
        count = min(len(labels), capacity)
        slots = (self._next + np.arange(count)) % capacity
        self._labels[slots] = labels[len(labels) - count :]
        self._probability[slots] = probability[len(labels) - count :]
        if weights is not None:
            if self._weights is None:
                self._weights = np.ones(capacity, np.float32)
            self._weights[slots] = weights[len(labels) - count :]
        self._next = (self._next + count) % capacity
        self._rows = min(self._rows + count, capacity)

    def metrics(self) -> BinaryMetrics:
        """Return the metrics of the samples in the window."""
        weights = None if self._weights is None else self._weights[: self._rows]
        return binary_metrics(self._labels[: self._rows], self._probability[: self._rows], weights)

    def state(self) -> dict[str, Any]:
        """Return the window as JSON values: probabilities, negated for label 1, in 5.4 characters per sample.

        Weights take the same space again.
        """
        signed = np.where(self._labels == 1, -self._probability, self._probability)[: self._rows]
        state: dict[str, Any] = {"next": self._next, "rows": _encoded(signed)}
        if self._weights is not None:
            state["weights"] = _encoded(self._weights[: self._rows])
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state` from a window of the same capacity."""
        signed = _decoded(state["rows"])
        self._next, self._rows = state["next"], len(signed)
        self._labels[: self._rows] = np.signbit(signed)  # label 1 with probability 0 is -0.0
        self._probability[: self._rows] = np.abs(signed)
        self._weights = None
        if "weights" in state:
            self._weights = np.ones(len(self._labels), np.float32)
            self._weights[: self._rows] = _decoded(state["weights"])


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _encoded(values: npt.NDArray[np.float32]) -> str:
    return b64encode(values.astype("<f4").tobytes()).decode()


def _decoded(text: str) -> npt.NDArray[np.float32]:
    return np.frombuffer(b64decode(text), "<f4")
