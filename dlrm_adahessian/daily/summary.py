# pyright: basic
"""Summarize a daily study: metrics, costs and differences of each day and over all days."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dlrm_adahessian.daily.job import SCRATCH, TrainedDay
from dlrm_adahessian.evaluation.figures import figures_of
from dlrm_adahessian.evaluation.results import Figures
from dlrm_adahessian.metrics.binary import METRICS
from dlrm_adahessian.runs.kinds import WARM
from dlrm_adahessian.statistics.comparison import Difference, compare_predictions
from dlrm_adahessian.train.results import Predicted, RunResult


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """Metrics and costs of one run of a day.

    Attributes:
        progressive: metrics on the samples of the day, each predicted before training on it; None for a run from scratch.
        test: metrics on samples of the next day.
        seconds: time spent in training steps.
        samples: number of training samples.
    """

    progressive: Figures | None
    test: Figures
    seconds: float
    samples: int

    def asdict(self) -> dict[str, Any]:
        """Return JSON values."""
        found = {"progressive": self.progressive and self.progressive.asdict(), "test": self.test.asdict()}
        return {**found, "train": {"seconds": self.seconds, "samples": self.samples}}


@dataclass(frozen=True, kw_only=True)
class DayFigures:
    """Results of a day.

    Attributes:
        day: file name of the day.
        tested_on: file name of the next day.
        runs: results by kind of run: `warm`, and `scratch` if there is such a run.
        difference: warm minus scratch on the test samples of the next day.
    """

    day: str
    tested_on: str
    runs: Mapping[str, RunFigures]
    difference: Difference | None

    def asdict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "day": self.day,
            "tested_on": self.tested_on,
            **{name: run.asdict() for name, run in self.runs.items()},
            "difference": self.difference and self.difference.asdict(),
        }


@dataclass(frozen=True, kw_only=True)
class DailySummary:
    """Results of all days.

    Attributes:
        optimizer: optimizer of all runs.
        seed: seed of all runs.
        days: results of each day, in order.
        difference: warm minus scratch on the test samples of all days with both runs; None without such days.
    """

    optimizer: str
    seed: int
    days: Sequence[DayFigures]
    difference: Difference | None

    @property
    def compared(self) -> list[DayFigures]:
        """Days with both kinds of run."""
        return [day for day in self.days if day.difference is not None]

    def cost(self, name: str) -> tuple[float, int]:
        """Return the total seconds in training steps and the total training samples of one kind of run."""
        runs = [day.runs[name] for day in self.days if name in day.runs]
        return sum(run.seconds for run in runs), sum(run.samples for run in runs)

    def asdict(self) -> dict[str, Any]:
        """Return JSON values."""
        costs = {name: self.cost(name) for name in (WARM, SCRATCH)}
        return {
            "optimizer": self.optimizer,
            "seed": self.seed,
            "days": [day.asdict() for day in self.days],
            "difference": self.difference and self.difference.asdict(),
            "train": {
                name: {"seconds": seconds, "samples": samples} for name, (seconds, samples) in costs.items()
            },
        }

    def table(self) -> pd.DataFrame:
        """Return a table with one line per run."""
        return pd.DataFrame(
            {
                "day": day.day,
                "tested_on": day.tested_on,
                "run": name,
                **{f"test_{metric}": run.test.value(metric) for metric in METRICS},
                **{
                    f"progressive_{metric}": run.progressive and run.progressive.value(metric)
                    for metric in METRICS
                },
                "seconds": run.seconds,
                "samples": run.samples,
            }
            for day in self.days
            for name, run in day.runs.items()
        )


def summarize(days: Sequence[TrainedDay]) -> DailySummary:
    """Summarize a daily study.

    Args:
        days: trained days in order, at least one.

    Returns:
        Metrics with 95% intervals. They cover the sampling of data only, since all runs have the same seed.
    """
    first = days[0].warm.summary
    both = [(day.warm.test, day.scratch.test) for day in days if day.scratch]
    return DailySummary(
        optimizer=first.optimizer,
        seed=first.seed,
        days=[_of_day(day) for day in days],
        difference=_difference(both) if both else None,
    )


def _of_day(day: TrainedDay) -> DayFigures:
    runs = {WARM: _of_run(day.warm, with_progressive=True)}
    if day.scratch:
        runs[SCRATCH] = _of_run(day.scratch, with_progressive=False)
    return DayFigures(
        day=day.day,
        tested_on=day.tested_on,
        runs=runs,
        difference=_difference([(day.warm.test, day.scratch.test)]) if day.scratch else None,
    )


def _of_run(run: RunResult, *, with_progressive: bool) -> RunFigures:
    cost = run.summary.train
    return RunFigures(
        progressive=figures_of(*run.progressive) if with_progressive else None,
        test=figures_of(*run.test),
        seconds=cost.seconds,
        samples=cost.samples,
    )


def _difference(pairs: Sequence[tuple[Predicted, Predicted]]) -> Difference:
    """Return the first minus the second of each pair, over the samples of all pairs."""
    labels = np.concatenate([ours.labels for ours, _ in pairs])
    ours, theirs = (np.concatenate([pair[place].probability for pair in pairs]) for place in (0, 1))
    weights = [ours.weights for ours, _ in pairs if ours.weights is not None]
    return compare_predictions(labels, ours, theirs, np.concatenate(weights) if weights else None)
