"""Results of a finished run, as returned and as written to summary.json."""

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
        weights: (N,) float32, the number of samples that each one counts for; None for 1 each.
    """

    labels: npt.NDArray[np.int8]
    probability: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32] | None = None

    def at(self, chosen: npt.NDArray[np.bool_]) -> "Predicted":
        """Return the selected samples; `chosen` is (N,)."""
        weights = None if self.weights is None else self.weights[chosen]
        return Predicted(self.labels[chosen], self.probability[chosen], weights)


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """Number of samples in each part, and of lines rejected during preparation."""

    train: int
    val: int
    test: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Cost of the training.

    Attributes:
        steps: number of steps, including skipped ones.
        samples: number of samples processed.
        model_mib: MiB of weights and optimizer state, replicas counted once.
        seconds: time spent in steps.
        samples_per_second: mean over all steps.
        step_ms_median: milliseconds per step: the median over blocks of 64 consecutive steps of their mean.
        waited_share: share of the time that training was ready to run but waited for a core; None if the operating system
            or an older summary does not say.
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
    """Results of a run, as in summary.json.

    Attributes:
        dataset: name of the dataset.
        optimizer: name of the optimizer preset.
        curvature: name of the curvature estimator.
        model: name of the architecture; "dlrm" if an older summary does not say.
        curvature_of: the matrix whose diagonal the estimator computes, for each part of the model; None without curvature,
            and in older summaries.
        seed: random seed of the run.
        world_size: number of ranks.
        device: "cpu", or the name of the GPU.
        batch_size: samples per step, over all ranks.
        resumed_from_step: step of the last resume; 0 if there was none.
        skipped_steps: number of steps whose loss or derivatives were not finite.
        rollbacks: number of times the run went back to a checkpoint.
        rows: number of samples in each part.
        progressive: metrics of progressive validation, from the second day on, or from the first sample on after a warm
            start.
        val: metrics of the validation samples.
        test: metrics of the test samples.
        train: cost of the training.
        bayes: metrics of the true probabilities of the test samples, for generated data.
        init_from: run directory of a warm start; None for random weights.
        init_checkpoint: digest of the checkpoint that it started from.
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
        """Return the summary as JSON values. It has `bayes` only if known, and `init_*` only after a warm start."""
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
        """Validate a summary from a file, which may have changed. Unknown keys are ignored.

        Args:
            values: JSON values from summary.json.
            origin: the file.

        Returns:
            The summary.

        Raises:
            DataError: a key is missing or has the wrong type.
        """
        try:
            return pydantic.TypeAdapter(cls).validate_python(values)
        except pydantic.ValidationError as error:
            wrong = error.errors()[0]
            raise DataError(
                f"Invalid summary of a run in {origin}, {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}. Restore the "
                "file from a copy, or train again."
            ) from error


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of a finished run.

    Attributes:
        summary: metrics and costs.
        progressive: predictions of progressive validation, in the order of training.
        test: predictions of the test samples.
    """

    summary: RunSummary
    progressive: Predicted
    test: Predicted
