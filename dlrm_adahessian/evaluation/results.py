"""What an evaluation found, and how it is written as JSON."""

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
    """The metrics of one model on some samples, with their intervals."""

    metrics: BinaryMetrics
    intervals: MetricIntervals

    def value(self, metric: str) -> float | None:
        """Return a metric by its name."""
        return getattr(self.metrics, metric)

    def interval(self, metric: str) -> Interval | None:
        """Return the 95% interval of a metric, None for one that has none."""
        return self.intervals[metric]

    def asdict(self) -> dict[str, Any]:
        """Return metrics and intervals as JSON values, without the number of samples."""
        metrics = self.metrics.asdict()
        del metrics["rows"]
        return {**metrics, **self.intervals.asdict()}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model is from that scored the samples, its column of predictions, and how these are calibrated, if at all."""

    run: str
    checkpoint: str
    column: str
    calibration: Method | None = None


@dataclass(frozen=True, kw_only=True)
class ModelFigures:
    """How good one model is.

    Attributes:
        name: unique among the models.
        source: None for predictions that were made before.
        figures: on the labeled samples; None without any.
        calibration_bins: of these samples, by rising prediction.
    """

    name: str
    source: Source | None
    figures: Figures | None
    calibration_bins: Sequence[CalibrationBin]

    @property
    def measured(self) -> Figures:
        """The figures of a model that has some; a ValueError without labeled samples."""
        if self.figures is None:
            raise ValueError(f"{self.name} has no figures, as no sample has a label; check `labelled` first")
        return self.figures

    @property
    def expected_calibration_error(self) -> float | None:
        """The mean gap between prediction and click rate over the bins."""
        return expected_calibration_error(self.calibration_bins)

    @property
    def calibration_error_interval(self) -> Interval | None:
        """The 95% interval of `expected_calibration_error`."""
        return calibration_error_interval(self.calibration_bins)

    def figures_asdict(self) -> dict[str, Any]:
        """Return what was measured as JSON values; nothing without labeled samples."""
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
    """A later model minus the first one in log loss.

    Attributes:
        model: the later one.
        against: the first one.
        logloss: None for fewer than two samples.
        p_adjusted: its p value, adjusted by Holm over a family of differences; None as `logloss`.
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
    """A later model minus the first one in every metric; p values are adjusted over the models."""

    difference: Difference

    def asdict(self) -> dict[str, Any]:
        """Return the differences as JSON values."""
        return {**super().asdict(), **self.difference.asdict()}


@dataclass(frozen=True, kw_only=True)
class SliceFigures:
    """How good the models are on one slice.

    Attributes:
        label: its name.
        samples: with a label.
        clicks: among them.
        models: figures by name of the model.
        differences: of each later model to the first; p values are adjusted over the slices and the models.
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
    """The slices of one slicing that have labeled samples; `name` is the user's word, `about` says what a slice is."""

    name: str
    about: str
    slices: Sequence[SliceFigures]

    @property
    def title(self) -> str:
        """Name and explanation."""
        return self.name if self.name == self.about else f"{self.name}: {self.about}"


@dataclass(frozen=True, kw_only=True)
class FileCounts:
    """A file, its samples, and the lines of it that were rejected."""

    name: str
    samples: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """What was found.

    Attributes:
        samples: all of them.
        labelled: those with a label.
        models: the first one is the reference.
        differences: of each later model to the first.
        slicings: in the order that they were asked for.
        files: that the samples came from.
        seconds: of reading, scoring and writing.
        predictions: the file that was written, or None.
        trained_on: names of the models that were trained on some of the samples, as far as is known.
        calibrated_on: names of those whose calibration was fitted on some of the samples, likewise.
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
        """Weight of the labeled samples, where samples have weights, which all figures count then."""
        return self.first.figures and self.first.figures.metrics.weight

    @property
    def missing_class(self) -> str | None:
        """Which class the labeled samples lack, in words, so that figures of both classes are not defined."""
        figures = self.first.figures
        if figures is None or figures.metrics.auc is not None:
            return None
        return "all rows are clicks" if figures.metrics.base_rate else "no row is a click"

    @property
    def first(self) -> ModelFigures:
        """The reference."""
        return self.models[0]

    @property
    def rejected(self) -> int:
        """Lines that were rejected."""
        return sum(file.rejected for file in self.files)

    @property
    def samples_per_second(self) -> float:
        """Speed of reading, scoring and writing."""
        return self.samples / self.seconds

    @property
    def cautions(self) -> list[str]:
        """Sentences for figures that are too good because the model or its calibration saw the samples before."""
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
        """Return JSON values; figures of the first model stand at the top as well."""
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
