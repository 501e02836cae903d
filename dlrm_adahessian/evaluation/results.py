"""Results of an evaluation, and their JSON form."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dlrm_adahessian.evaluation.calibration.maps import Method
from dlrm_adahessian.metrics.binary import BinaryMetrics
from dlrm_adahessian.metrics.curves import CalibrationBin, expected_calibration_error
from dlrm_adahessian.statistics.comparison import Difference
from dlrm_adahessian.statistics.intervals import Interval, PairedDifference
from dlrm_adahessian.statistics.single import MetricIntervals, calibration_error_interval


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Metrics of one model on some samples, with intervals."""

    metrics: BinaryMetrics
    intervals: MetricIntervals

    def value(self, metric: str) -> float | None:
        """Return a metric by name."""
        return getattr(self.metrics, metric)

    def interval(self, metric: str) -> Interval | None:
        """Return the 95% interval of a metric; None if it has none."""
        return self.intervals[metric]

    def asdict(self) -> dict[str, Any]:
        """Return metrics and intervals as JSON values, without the number of samples."""
        metrics = self.metrics.asdict()
        del metrics["rows"]
        return {**metrics, **self.intervals.asdict()}


@dataclass(frozen=True, kw_only=True)
class Source:
    """The origin of a model that scored the samples, its column of predictions, and its calibration, if any."""

    run: str
    checkpoint: str
    column: str
    calibration: Method | None = None


@dataclass(frozen=True, kw_only=True)
class ModelFigures:
    """Results of one model.

    Attributes:
        name: unique name of the model.
        source: origin of the model; None for saved predictions.
        figures: metrics of the labeled samples; None if there are none.
        calibration_bins: bins of these samples, by ascending prediction.
    """

    name: str
    source: Source | None
    figures: Figures | None
    calibration_bins: Sequence[CalibrationBin]

    @property
    def measured(self) -> Figures:
        """The metrics of the model. Raises a ValueError if no sample has a label."""
        if self.figures is None:
            raise ValueError(
                f"{self.name} has no metrics, because no sample has a label; check `labelled` first"
            )
        return self.figures

    @property
    def expected_calibration_error(self) -> float | None:
        """Mean gap between prediction and click rate over the bins."""
        return expected_calibration_error(self.calibration_bins)

    @property
    def calibration_error_interval(self) -> Interval | None:
        """95% interval of `expected_calibration_error`."""
        return calibration_error_interval(self.calibration_bins)

    def figures_asdict(self) -> dict[str, Any]:
        """Return the metrics as JSON values; empty without labeled samples."""
        if self.figures is None:
            return {}
        return {
            **self.figures.asdict(),
            "expected_calibration_error": self.expected_calibration_error,
            "expected_calibration_error_ci95": self.calibration_error_interval,
            "calibration_bins": [entry.asdict() for entry in self.calibration_bins],
        }

    def asdict(self) -> dict[str, Any]:
        """Return the model as JSON values."""
        return {"name": self.name, **(asdict(self.source) if self.source else {}), **self.figures_asdict()}


@dataclass(frozen=True, kw_only=True)
class LoglossDifference:
    """Log loss of a later model minus that of the first one.

    Attributes:
        model: name of the later model.
        against: name of the first model.
        logloss: the difference; None for fewer than two samples.
        p_adjusted: its p value, adjusted by Holm over a family of differences; None if `logloss` is.
    """

    model: str
    against: str
    logloss: PairedDifference | None
    p_adjusted: float | None

    def asdict(self) -> dict[str, Any]:
        """Return the difference as JSON values."""
        return {
            "model": self.model,
            "against": self.against,
            "logloss": self.logloss and self.logloss.estimate,
            "logloss_ci95": self.logloss and self.logloss.ci95,
            "p_adjusted": self.p_adjusted,
        }


@dataclass(frozen=True, kw_only=True)
class ModelDifference(LoglossDifference):
    """All metrics of a later model minus those of the first one. The p values are adjusted over the models."""

    difference: Difference

    def asdict(self) -> dict[str, Any]:
        """Return the differences as JSON values."""
        return {**super().asdict(), **self.difference.asdict()}


@dataclass(frozen=True, kw_only=True)
class SliceFigures:
    """Results of the models on one slice.

    Attributes:
        label: name of the slice.
        samples: number of labeled samples.
        clicks: number of clicks among them.
        models: metrics by name of the model.
        differences: each later model minus the first one. The p values are adjusted over slices and models.
    """

    label: str
    samples: int
    clicks: int
    models: Mapping[str, Figures]
    differences: Sequence[LoglossDifference]

    def asdict(self) -> dict[str, Any]:
        """Return the slice as JSON values."""
        return {
            "slice": self.label,
            "rows": self.samples,
            "clicks": self.clicks,
            "models": {name: figures.asdict() for name, figures in self.models.items()},
            "differences": [difference.asdict() for difference in self.differences],
        }


@dataclass(frozen=True, kw_only=True)
class SlicingFigures:
    """The nonempty slices of one slicing, where `name` is the argument of the user and `about` explains the slices."""

    name: str
    about: str
    slices: Sequence[SliceFigures]

    @property
    def title(self) -> str:
        """Name and explanation of the slicing."""
        return self.name if self.name == self.about else f"{self.name}: {self.about}"


@dataclass(frozen=True, kw_only=True)
class FileCounts:
    """A file, and its numbers of samples and rejected lines."""

    name: str
    samples: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """Results of an evaluation.

    Attributes:
        samples: number of all samples.
        labelled: number of labeled samples.
        models: results by model; the first one is the reference.
        differences: each later model minus the first one.
        slicings: slicings in the requested order.
        files: files of the samples.
        seconds: time for reading, scoring, and writing.
        predictions: file with the predictions, or None.
        trained_on: names of models known to be trained on some of the samples.
        calibrated_on: names of models known to be calibrated on some of the samples.
    """

    samples: int
    labelled: int
    models: Sequence[ModelFigures]
    differences: Sequence[ModelDifference]
    slicings: Sequence[SlicingFigures]
    files: Sequence[FileCounts]
    seconds: float
    predictions: Path | None
    trained_on: Sequence[str] = ()
    calibrated_on: Sequence[str] = ()

    @property
    def weight(self) -> float | None:
        """Total weight of the labeled samples, used in all metrics; None without weights."""
        return self.first.figures and self.first.figures.metrics.weight

    @property
    def missing_class(self) -> str | None:
        """Text about the class that no labeled sample has, so that some metrics are undefined; None if there are both."""
        figures = self.first.figures
        if figures is None or figures.metrics.auc is not None:
            return None
        return "all samples are clicks" if figures.metrics.base_rate else "no sample is a click"

    @property
    def first(self) -> ModelFigures:
        """The reference model."""
        return self.models[0]

    @property
    def rejected(self) -> int:
        """Number of rejected lines."""
        return sum(file.rejected for file in self.files)

    @property
    def samples_per_second(self) -> float:
        """Samples per second of reading, scoring, and writing."""
        return self.samples / self.seconds

    @property
    def cautions(self) -> list[str]:
        """Warnings that metrics are too optimistic, because the model or its calibration saw some of the samples."""
        found: list[str] = []
        if self.trained_on:
            names, one = ", ".join(self.trained_on), len(self.trained_on) == 1
            found.append(
                f"{names} {'was' if one else 'were'} trained on some of these samples, so {'its' if one else 'their'} "
                "figures are too good for new data. Use --part test to score samples that were kept apart."
            )
        if self.calibrated_on:
            names, one = ", ".join(self.calibrated_on), len(self.calibrated_on) == 1
            found.append(
                f"{names} {'was' if one else 'were'} calibrated on some of these samples, so {'its' if one else 'their'} "
                "figures are slightly too good for new data. Score other samples, or use the figures of calibrate."
            )
        return found

    def asdict(self) -> dict[str, Any]:
        """Return JSON values. Metrics of the first model are also at the top level."""
        values: dict[str, Any] = {
            "rows": self.samples,
            "labelled": self.labelled,
            **self.first.figures_asdict(),
            "rejected": self.rejected,
            "models": [model.asdict() for model in self.models],
            "differences": [difference.asdict() for difference in self.differences],
            "slices": {
                each.name: {"about": each.about, "slices": [part.asdict() for part in each.slices]}
                for each in self.slicings
            },
            "files": [
                {"name": file.name, "rows": file.samples, "rejected": file.rejected} for file in self.files
            ],
            "trained_on": list(self.trained_on),
            "calibrated_on": list(self.calibrated_on),
            "timing": {"seconds": self.seconds, "rows_per_second": self.samples_per_second},
        }
        if self.first.source is not None:
            values["checkpoint"] = self.first.source.checkpoint
        if self.predictions is not None:
            values["predictions"] = str(self.predictions)
        return values
