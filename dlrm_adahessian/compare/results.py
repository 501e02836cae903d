"""Define the results of a comparison, and convert them to JSON."""

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
"""Sets of samples on which entrants are compared."""
NEAR_BEST = 0.001
"""Largest difference in log loss from the best trial of all entrants that counts as near it."""
Means = Mapping[str, float]
"""Means over the seeds, by name, without values that are undefined for a seed."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Log loss on the validation samples after a number of samples and seconds of training."""

    samples: int
    seconds: float
    logloss: float


@dataclass(frozen=True, kw_only=True)
class TimeToTarget:
    """When the final runs of an entrant first reach the target log loss.

    Attributes:
        reached: number of runs that reach it.
        of: number of finished runs.
        samples: median number of samples over the runs that reach it; None if no run does.
        seconds: median seconds, like `samples`.
    """

    reached: int
    of: int
    samples: float | None = None
    seconds: float | None = None

    def asdict(self) -> dict[str, float]:
        """Return JSON values, without samples and seconds if no run reaches the target."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Quality of the trials of an entrant.

    Attributes:
        count: number of trials.
        diverged: number of diverged trials.
        near_best: number of trials within `NEAR_BEST` of the best trial of all entrants.
        best_logloss: lowest log loss on the selection set; None if all trials diverged.
        median_logloss: median log loss on the selection set; None if all trials diverged.
    """

    count: int
    diverged: int
    near_best: int
    best_logloss: float | None
    median_logloss: float | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Result of one search of an entrant.

    Attributes:
        seed: seed of the trials.
        chosen: selected hyper-parameters by path below `optim`.
        at_an_edge: paths of those at an end of their range.
        judged_logloss: log loss of the selected trial on the selection set; None if all trials diverged.
    """

    seed: int
    chosen: Mapping[str, Any]
    at_an_edge: Sequence[str]
    judged_logloss: float | None


@dataclass(frozen=True, kw_only=True)
class EntrantResult:
    """Results of one entrant.

    Attributes:
        settings: settings of its optimizer in the first final run, and of its model if models are compared.
        curvature_of: matrix whose diagonal the optimizer uses, for each part of the model; None without curvature.
        searches: result of each search; empty without trials.
        final_runs: number of final runs, one per seed.
        final_runs_diverged: number of diverged final runs.
        val: mean metrics on the validation samples.
        progressive: mean metrics on the reported progressive samples.
        test: mean metrics on the test samples.
        train: mean costs of training. If runs shared the machine, also `step_ms_apart`, the step time in milliseconds of
            steps trained alone.
        trials: quality of the trials; None without trials.
        curves: learning curve of each finished final run.
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
        optimizer: later entrant.
        against: earlier entrant, which is subtracted.
        part: set of samples.
        difference: difference in each metric.
        p_adjusted: p value of the log loss, adjusted over the pairs with Holm's method.
        minimum_detectable_logloss: difference that a comparison of this size finds with 80% power.
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
    """Means per token, (tables, bands), summed over the embedding dimension; None for a band without tokens.

    Attributes:
        tables: names of the tables.
        curvature: curvature of the log loss of one sample.
        squared_gradient: squared gradient of the same; its expectation is the curvature if the model is calibrated.
    """

    tables: Sequence[str]
    curvature: Sequence[Sequence[float | None]]
    squared_gradient: Sequence[Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class TokenBands:
    """Differences by the frequency of tokens in training.

    Attributes:
        names: names of the bands.
        tokens: number of tokens of the samples in each band.
        logloss: for each entrant but the reference, its log loss minus that of the reference in each band; None without
            tokens.
        curvature: curvature by entrant; None for a model without an exact diagonal.
    """

    names: Sequence[str]
    tokens: Sequence[int]
    logloss: Mapping[str, Sequence[Estimate | None]]
    curvature: Mapping[str, CurvatureByBand | None]

    def asdict(self) -> dict[str, Any]:
        """Return JSON values. The keys of the entrants are on the same level as `names`."""
        differences = {
            name: [e and {"logloss": e.estimate, "logloss_ci95": e.ci95} for e in estimates]
            for name, estimates in self.logloss.items()
        }
        curvature = {name: found and asdict(found) for name, found in self.curvature.items()}
        return {"names": self.names, "tokens": self.tokens, **differences, "curvature": curvature}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results of a comparison.

    Attributes:
        config: settings of the comparison.
        samples: number of samples for training, validation, and test.
        optimizers: results of the entrants by name, in the order of the configuration.
        target_val_logloss: mean final log loss of the reference on the validation samples.
        differences: differences of each pair, by part.
        bands: differences by token frequency; None if seeds predict different samples, no pair finished, or no feature has
            single tokens.
        best_trial_logloss: lowest log loss of a trial over all entrants.
        bayes: metrics of the true probabilities on the test samples; None unless the data is synthetic.
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
        """Number of trials of each entrant in each search."""
        return self.config.trials + self.config.refine

    @property
    def intervals_cover(self) -> str:
        """A sentence about what the intervals cover."""
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
        """Heading of a column of step times. If runs shared the machine, steps were timed alone after them."""
        return "ms per step" if self.config.parallel == 1 else "ms per step, alone"

    @property
    def step_ms(self) -> Means:
        """Step time in milliseconds by entrant, without entrants that finished no run."""
        key = "step_ms_median" if self.config.parallel == 1 else "step_ms_apart"
        return {name: found.train[key] for name, found in self.optimizers.items() if key in found.train}

    @property
    def measured_times(self) -> str:
        """A sentence about how step times were measured."""
        at_once = self.config.parallel
        if at_once == 1:
            return "Step times are medians over the final runs, which trained one at a time."
        return (
            f"Step times are medians over steps that each {self.compared} trained alone after all runs. The runs themselves "
            f"trained {at_once} at once on shared cores, which slows them down."
        )

    @property
    def weighted(self) -> bool:
        """Whether the metrics use sample weights."""
        return any("weight" in found.val for found in self.optimizers.values())

    @property
    def compared(self) -> str:
        """What the report calls an entrant: optimizer or model if only these differ, otherwise entrant."""
        if self.config.models is None:
            return "optimizer"
        return "model" if len(self.config.optimizer_names) == 1 else "entrant"

    @property
    def first(self) -> str:
        """Name of the reference, with which the report compares the others."""
        return next(iter(self.optimizers))

    @property
    def to_first(self) -> list[PairDifference]:
        """The differences from the reference."""
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
