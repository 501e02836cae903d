"""Calibrate a run on samples that it was not trained on, and measure the improvement.

The stored map is fitted on all samples. The improvement is measured by cross-fitting: each sample is calibrated by a map
fitted without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import NoInputError
from dlrm_adahessian.evaluation.calibration.fit import FOLDS, cross_fitted, fit
from dlrm_adahessian.evaluation.calibration.maps import Method
from dlrm_adahessian.evaluation.calibration.stored import Calibration, CalibrationRows
from dlrm_adahessian.evaluation.job import score, summarized
from dlrm_adahessian.evaluation.predictions import Predictions
from dlrm_adahessian.evaluation.request import EvaluationRequest
from dlrm_adahessian.evaluation.results import EvaluationSummary
from dlrm_adahessian.evaluation.rows import Part
from dlrm_adahessian.evaluation.trained_model import TrainedModel, open_trained, run_of
from dlrm_adahessian.metrics.binary import probability_from_logit
from dlrm_adahessian.metrics.means import of_weight
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runs.sealed import require_writable
from dlrm_adahessian.runtime.device import find_device
from dlrm_adahessian.train.recorded import RecordedRun
from dlrm_adahessian.train.results import Predicted


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest:
    """A run, and the samples for its calibration.

    Attributes:
        run: run directory, or a checkpoint in it.
        data: raw samples or a folder of prepared data; empty for the data that the run prepared.
        method: kind of the map.
        part: part of the samples; None for the validation part of the run's own data, or all of other data.
        best: calibrate the checkpoint of the best validation, even if the run did not stop early.
        report: HTML file to write.
    """

    run: Path
    data: Sequence[str] = ()
    method: Method = "platt"
    part: Part | None = None
    best: bool = False
    report: Path | None = None

    def evaluation(self) -> EvaluationRequest:
        """Return the evaluation that scores the samples. Raises a NoInputError if the run's own data is gone."""
        own = not self.data
        return EvaluationRequest(
            runs=[self.run],
            data=[_prepared(run_of(self.run))] if own else self.data,
            report=self.report,
            part=self.part or ("val" if own else "all"),
            best=self.best,
            unseen=True,
        )


@dataclass(frozen=True, kw_only=True)
class CalibratedRun:
    """A stored calibration, and its measured effect.

    Attributes:
        file: file of the calibration.
        calibration: calibration fitted on all samples.
        summary: metrics of the run without calibration, and with cross-fitted maps.
        predictions: predictions of both on the labeled samples.
    """

    file: Path
    calibration: Calibration
    summary: EvaluationSummary
    predictions: Predictions

    @property
    def verdict(self) -> str:
        """Sentence that says whether calibration helped."""
        (difference,) = self.summary.differences
        if difference.logloss is None:
            return "There are too few samples to measure the effect of calibration."
        low, high = difference.logloss.ci95
        ends = f"[{low:+.5f}, {high:+.5f}]"
        if high < 0:
            return f"Calibration lowers the log loss: the interval of the difference is {ends}."
        if low > 0:
            return f"Calibration raises the log loss: the interval of the difference is {ends}. Predict without it."
        return (
            f"Calibration did not measurably help on this data: the interval of the difference in log loss, {ends}, "
            "contains 0."
        )

    def asdict(self) -> dict[str, Any]:
        """Return JSON values of the evaluation and the calibration."""
        return {
            **self.summary.asdict(),
            "calibration": {**self.calibration.asdict(), "file": str(self.file), "folds": FOLDS},
            "verdict": self.verdict,
        }

    @classmethod
    def of(cls, request: CalibrationRequest) -> Self:
        """Score the samples, fit a map, measure its effect, and write it to the run directory.

        Args:
            request: the requested calibration.

        Returns:
            The result. Samples that the run was trained on raise a UsageError, and unsuitable ones the DataError of `fit`.
        """
        run = run_of(request.run)
        asked = request.evaluation()
        asked.check()
        require_writable(run.path, "--run")
        device = find_device("auto")
        with init_process_group(device):
            model = open_trained(request.run, device, best=request.best)
            scored = score(asked, [model])
        label, checkpoint = model.preprocessing.schema.label, model.checkpoint
        labelled = scored.predictions.labelled
        ((name, probability),) = labelled.scored.items()
        found = Predicted(labelled.labels, np.asarray(probability, np.float32), labelled.weights)
        calibration = Calibration(
            step=checkpoint.step,
            digest=checkpoint.digest,
            map=fit(request.method, found, label),
            rows=_rows(found, asked, model),
        )
        after = probability_from_logit(cross_fitted(request.method, found, label))
        both = replace(labelled, scored={name: probability, f"{name} calibrated": after})
        return cls(
            file=calibration.write(run.path),
            calibration=calibration,
            summary=summarized(both, scored),
            predictions=both,
        )


def _rows(found: Predicted, asked: EvaluationRequest, model: TrainedModel) -> CalibrationRows:
    _, labels = of_weight(found.weights, found.labels)
    others = asked.data if asked.part == "all" else ()  # any part belongs to the run's own data
    return CalibrationRows(
        samples=len(labels),
        clicks=int(labels.sum()),
        data=list(asked.data),
        part=asked.part,
        files=[file for path in others for file in model.contents(path)],
    )


def _prepared(run: RunDirectory) -> str:
    """Return the folder of the data that a run prepared."""
    folder = RecordedRun.read(run).prepared.get("folder")
    if not isinstance(folder, str) or not Path(folder).is_dir():
        raise NoInputError(
            f"The validation data of {run.path} is gone: folder {folder} does not exist. Pass data that the run was not "
            "trained on with --data-path."
        )
    return folder
