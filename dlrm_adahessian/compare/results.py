"""What a comparison found, and how it is written as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.curvature.parts import Parts
from dlrm_adahessian.metrics.binary import BinaryMetrics
from dlrm_adahessian.statistics.components import Estimate
from dlrm_adahessian.statistics.crossed import CrossedDifference

Part = Literal["progressive", "test"]
PARTS: tuple[Part, ...] = ("progressive", "test")
"""The samples that entrants are compared on."""
NEAR_BEST = 0.001
"""Log loss within which a trial counts as near the best one of all entrants."""
Means = Mapping[str, float]
"""Means over the seeds, by name; without those that a seed leaves undefined."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Log loss on the validation samples after so many samples, and seconds, of training."""

    samples: int
    seconds: float
    logloss: float


@dataclass(frozen=True, kw_only=True)
class TimeToTarget:
    """When the final runs of an entrant first reach the target.

    Attributes:
        reached: runs that do.
        of: all that finished.
        samples: median over those that do; None without any.
        seconds: like `samples`.
    """

    reached: int
    of: int
    samples: float | None = None
    seconds: float | None = None

    def asdict(self) -> dict[str, float]:
        """Return JSON values; samples and seconds only where a run reaches the target."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Trials:
    """How good the trials of an entrant were.

    Attributes:
        count: all of them.
        diverged: those that did.
        near_best: those within `NEAR_BEST` of the best of all entrants.
        best_logloss: by the samples that choose; None when all diverged.
        median_logloss: like `best_logloss`.
    """

    count: int
    diverged: int
    near_best: int
    best_logloss: float | None
    median_logloss: float | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What one search of an entrant chose.

    Attributes:
        seed: of its draws.
        chosen: hyper-parameters by path below `optim`.
        at_an_edge: those of them at an end of their range.
        judged_logloss: of the trial, by the samples that choose; None when all diverged.
    """

    seed: int
    chosen: Mapping[str, Any]
    at_an_edge: Sequence[str]
    judged_logloss: float | None


@dataclass(frozen=True, kw_only=True)
class EntrantResult:
    """What one entrant did.

    Attributes:
        settings: its own, of the first final run; where models are compared, that of its model too.
        curvature_of: of which matrix the diagonal that it reads is, at each part of the model; None where it reads none.
        searches: what each chose; empty without trials.
        final_runs: one per seed.
        final_runs_diverged: of these.
        val: means of the metrics on the validation samples.
        progressive: means of those of the progressive validation, as far as they are reported.
        test: means of those of the test samples.
        train: means of what training took; of runs that shared the machine also `step_ms_apart`, milliseconds of a step that
            nothing else ran beside.
        trials: None without any.
        curves: of each final run that finished.
        time_to_target: None without a target.
    """

    settings: Mapping[str, Any]
    curvature_of: Parts | None
    searches: Sequence[Choice]
    final_runs: int
    final_runs_diverged: int
    val: Means
    progressive: Means
    test: Means
    train: Means
    trials: Trials | None
    curves: Sequence[Sequence[CurvePoint]]
    time_to_target: TimeToTarget | None

    def asdict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "settings": self.settings,
            "curvature_of": self.curvature_of and asdict(self.curvature_of),
            "chosen": self.searches[0].chosen if self.searches else {},
            "at_an_edge": list(self.searches[0].at_an_edge) if self.searches else [],
            "searches": [asdict(search) for search in self.searches],
            "final_runs": self.final_runs,
            "final_runs_diverged": self.final_runs_diverged,
            "val": self.val,
            "progressive": self.progressive,
            "test": self.test,
            "train": self.train,
            "draws": asdict(self.trials) if self.trials else None,
            "curve": [[asdict(point) for point in curve] for curve in self.curves],
            "time_to_target": self.time_to_target.asdict() if self.time_to_target else None,
        }


@dataclass(frozen=True, kw_only=True)
class PairDifference:
    """One entrant minus another, over the seeds that both finished.

    Attributes:
        optimizer: the later entrant.
        against: the earlier entrant.
        part: the samples.
        difference: in each metric.
        p_adjusted: of the log loss, by Holm over the pairs.
        minimum_detectable_logloss: difference that such a comparison finds four times of five.
    """

    optimizer: str
    against: str
    part: Part
    difference: CrossedDifference
    p_adjusted: float
    minimum_detectable_logloss: float

    def asdict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "optimizer": self.optimizer,
            "against": self.against,
            **self.difference.asdict(),
            "row_count": self.difference.rows,
            "rows": self.part,
            "p_adjusted": self.p_adjusted,
            "minimum_detectable_logloss": self.minimum_detectable_logloss,
        }


@dataclass(frozen=True, kw_only=True)
class CurvatureByBand:
    """Means per token, (table, band), summed over the embedding; None where a band has no token.

    Attributes:
        tables: their names.
        curvature: of one sample's log loss.
        squared_gradient: whose expectation is the curvature where the model is calibrated.
    """

    tables: Sequence[str]
    curvature: Sequence[Sequence[float | None]]
    squared_gradient: Sequence[Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class TokenBands:
    """Where the differences lie, by how often training saw a token.

    Attributes:
        names: of the bands.
        tokens: of the samples, in each band.
        logloss: by entrant after the first, its difference of log loss to the first in each band; None without tokens.
        curvature: by entrant, None for a model without an exact diagonal.
    """

    names: Sequence[str]
    tokens: Sequence[int]
    logloss: Mapping[str, Sequence[Estimate | None]]
    curvature: Mapping[str, CurvatureByBand | None]

    def asdict(self) -> dict[str, Any]:
        """Return JSON values; the entrants stand beside the names of the bands."""
        differences = {
            name: [e and {"logloss": e.estimate, "logloss_ci95": e.ci95} for e in estimates]
            for name, estimates in self.logloss.items()
        }
        curvature = {name: found and asdict(found) for name, found in self.curvature.items()}
        return {"names": self.names, "tokens": self.tokens, **differences, "curvature": curvature}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a comparison found.

    Attributes:
        config: its own.
        samples: number of those for training, validation and test.
        optimizers: the entrants by name, in the order of the configuration.
        target_val_logloss: mean final log loss of the first entrant on the validation samples.
        differences: of each pair, by part.
        bands: None where seeds predict other samples, no pair finished, or there are no tokens.
        best_trial_logloss: of all entrants.
        bayes: metrics of the true probabilities of the test samples, where they were generated.
        environment: versions and machine.
    """

    config: CompareConfig
    samples: Mapping[str, int]
    optimizers: Mapping[str, EntrantResult]
    target_val_logloss: float | None
    differences: Sequence[PairDifference]
    bands: TokenBands | None
    best_trial_logloss: float | None
    bayes: BinaryMetrics | None
    environment: Mapping[str, Any]

    @property
    def draws(self) -> int:
        """Draws of each entrant in each search."""
        return self.config.trials + self.config.refine

    @property
    def intervals_cover(self) -> str:
        """What the intervals cover, as a sentence."""
        config = self.config
        if config.seeds == 1:
            return "95% intervals cover the sampling of data only: one seed says nothing about seed-to-seed variation."
        if config.searches > 1:
            return "95% intervals cover the sampling of data, seed-to-seed variation, and tuning."
        both = "95% intervals cover the sampling of data and seed-to-seed variation"
        if not config.trials:
            return f"{both}. Presets were not tuned."
        return f"{both}, but not tuning: another search could choose other hyper-parameters."

    @property
    def step_times(self) -> str:
        """What heads a column of step times: where runs shared the machine, steps were timed alone after them."""
        return "ms per step" if self.config.parallel == 1 else "ms per step, alone"

    @property
    def step_ms(self) -> Means:
        """Milliseconds of a step, by entrant; without those of which no run finished."""
        key = "step_ms_median" if self.config.parallel == 1 else "step_ms_apart"
        return {name: found.train[key] for name, found in self.optimizers.items() if key in found.train}

    @property
    def measured_times(self) -> str:
        """How step times were measured, in words."""
        at_once = self.config.parallel
        if at_once == 1:
            return "Step times are medians, of final runs as they trained: one run at a time."
        return (
            f"Step times are medians of steps that each {self.compared} trained alone, after all runs. The runs themselves "
            f"trained {at_once} at once on shared cores, which slows all of them."
        )

    @property
    def weighted(self) -> bool:
        """Whether samples count by their weights in the metrics."""
        return any("weight" in found.val for found in self.optimizers.values())

    @property
    def compared(self) -> str:
        """What the entrants are called in the report: what differs between them."""
        if self.config.models is None:
            return "optimizer"
        return "model" if len(self.config.optimizer_names) == 1 else "entrant"

    @property
    def first(self) -> str:
        """The entrant that the report compares the others with."""
        return next(iter(self.optimizers))

    @property
    def to_first(self) -> list[PairDifference]:
        """The differences to the first entrant."""
        return [pair for pair in self.differences if pair.against == self.first]

    def asdict(self) -> dict[str, Any]:
        """Return JSON values."""
        config = self.config
        of_models = {"models": config.model_names, "reference": self.first} if config.models else {}
        return {
            "dataset": config.dataset,
            **of_models,
            "rows": self.samples,
            "seeds": config.seeds,
            "trials": config.trials,
            "refine": config.refine,
            "searches": config.searches,
            "trial_rows": config.trial_rows,
            "sampler": config.sampler,
            "select": config.select,
            "batch_size": config.batch_size,
            "epochs": config.epochs,
            "parallel": config.parallel,
            "optimizers": {name: found.asdict() for name, found in self.optimizers.items()},
            "target_val_logloss": self.target_val_logloss,
            "differences": [pair.asdict() for pair in self.differences],
            "bands": self.bands and self.bands.asdict(),
            "best_draw_logloss": self.best_trial_logloss,
            "bayes": self.bayes and self.bayes.asdict(),
            "environment": self.environment,
        }
