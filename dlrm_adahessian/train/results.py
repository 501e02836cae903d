"""What a finished run returns, and what it says in summary.json."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pydantic

from dlrm_adahessian.curvature.parts import Parts
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.metrics.binary import BinaryMetrics


class Predicted(NamedTuple):
    """Predictions of N samples in order.

    Attributes:
        labels: (N,) int8, 0 or 1.
        probability: (N,) float32.
        weights: (N,) float32, as how many samples each counts; None for 1 each.
    """

    labels: npt.NDArray[np.int8]
    probability: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32] | None = None

    def at(self, chosen: npt.NDArray[np.bool_]) -> "Predicted":
        """Return those that are chosen, (N,)."""
        weights = None if self.weights is None else self.weights[chosen]
        return Predicted(self.labels[chosen], self.probability[chosen], weights)


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """Samples of each part, and lines that were rejected when they were prepared."""

    train: int
    val: int
    test: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What training took.

    Attributes:
        steps: done, skipped ones too.
        samples: predicted and learned.
        model_mib: weights and optimizer state, replicas counted once.
        seconds: in steps.
        samples_per_second: over all steps.
        step_ms_median: duration of a step: the median of the means of 64 steps one after another.
        waited_share: share of the time that training was ready to run and waited for a core, which other programs had; None
            where the system or a summary of before does not say.
    """

    steps: int
    samples: int
    model_mib: float
    seconds: float
    samples_per_second: float
    step_ms_median: float
    waited_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The results of a run, as summary.json has them.

    Attributes:
        dataset: name of the dataset.
        optimizer: name of its preset.
        curvature: name of the estimator.
        model: name of the architecture; dlrm where a summary of before does not say.
        curvature_of: of which matrix its diagonal is, at each part of the model; None without curvature, and in summaries
            of versions that did not say.
        seed: of the run.
        world_size: ranks.
        device: "cpu", or the name of the GPU.
        batch_size: samples a step, over all ranks.
        resumed_from_step: 0 where the run was not resumed.
        skipped_steps: steps with a loss or a derivative that was not finite.
        rollbacks: how often the run went back to a checkpoint.
        rows: samples by part.
        progressive: metrics of predictions made before learning, from the second day on; from the first row on where the run
            started from another.
        val: metrics of the validation samples.
        test: metrics of the test samples.
        train: what training took.
        bayes: metrics of the true probabilities of the test samples, where they were generated.
        init_from: the run directory that it started from; None for random weights.
        init_checkpoint: which checkpoint there.
    """

    dataset: str
    optimizer: str
    curvature: str
    seed: int
    world_size: int
    device: str
    batch_size: int
    resumed_from_step: int
    skipped_steps: int
    rollbacks: int
    rows: SampleCounts
    progressive: BinaryMetrics
    val: BinaryMetrics
    test: BinaryMetrics
    train: TrainingCost
    bayes: BinaryMetrics | None = None
    model: str = "dlrm"
    curvature_of: Parts | None = None
    init_from: str | None = None
    init_checkpoint: str | None = None

    def asdict(self) -> dict[str, Any]:
        """Return the summary as JSON values; `bayes` only where it is known, and where it started only if it did."""
        values = dataclasses.asdict(self)
        if self.init_from is None:
            del values["init_from"], values["init_checkpoint"]
        for part in ("progressive", "val", "test", "bayes"):
            metrics: BinaryMetrics | None = getattr(self, part)
            if metrics is None:
                del values[part]
            else:
                values[part] = metrics.asdict()
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any], origin: object) -> Self:
        """Check what `origin`, a file that somebody may have changed, says of a run; other keys are passed over.

        Args:
            values: JSON values of summary.json.
            origin: the file.

        Returns:
            The summary.

        Raises:
            DataError: a key is absent or of another type.
        """
        try:
            return pydantic.TypeAdapter(cls).validate_python(values)
        except pydantic.ValidationError as error:
            wrong = error.errors()[0]
            raise DataError(
                f"{origin} must hold the summary of a run, and {'.'.join(map(str, wrong['loc']))} is not one: "
                f"{wrong['msg']}; restore it from a copy, or train again"
            ) from error


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run.

    Attributes:
        summary: its results.
        progressive: samples of the progressive validation, in the order of training.
        test: the test samples.
    """

    summary: RunSummary
    progressive: Predicted
    test: Predicted
