"""Trials of hyper-parameters: as many for each entrant, from ranges equally wide for all; and what chooses among them.

First come wide trials over the whole ranges, then, where asked for, refined ones near the best few: learning rates within
half a decade in all, everything else as there.

A trial is determined by the seed, the optimizer's name and the results of earlier trials, so a search that was cut off
is repeated by asking again, with finished runs at hand. Models with one optimizer begin with the same trials: none has
the better luck.

With `val` trials are judged by the validation samples after training. Where these are few, chance chooses: `progressive`
judges by every other block of the progressive samples, which are ten times as many and cover the whole of training. The
report then holds the other blocks alone, so that no sample both chooses and reports.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.metrics.binary import binary_metrics, log_losses
from dlrm_adahessian.optim.base import Choice, Range
from dlrm_adahessian.runs.sealed import fingerprint
from dlrm_adahessian.train.results import RunResult

Select = Literal["val", "progressive"]
_WORST = 1e6
"""Log loss told to the sampler for a run that diverged; any finite run is better."""
_BEST = 3  # trials that others are drawn near
_REACH = 0.25  # decades to either side
_EDGE = 0.05  # share of a range at either end


class Search:
    """One entrant's trials, in order."""

    def __init__(self, config: RunConfig, sampler: str, seed: int) -> None:
        """Start before the first trial.

        Args:
            config: of the optimizer with its preset; says what may be drawn.
            sampler: `random` or `tpe`.
            seed: of the comparison.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._seed = own_seed = int(fingerprint([config.optimizer, seed]), 16) % 2**32
        samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
        self._study = optuna.create_study(sampler=samplers[sampler](seed=own_seed))
        self._allowed = config.optim.search_space
        self._space = {path: _distribution(allowed) for path, allowed in self._allowed.items()}

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]]:
        """Return a trial to be told about, and its hyper-parameters by path below `optim`."""
        trial = self._study.ask(self._space)
        return trial, dict(trial.params)

    def refine(self) -> tuple[optuna.Trial, dict[str, Any]]:
        """Return a trial near one of the best so far, otherwise as `ask`; all but numbers in ranges are as there."""
        done = [trial for trial in self._study.trials if trial.value is not None and trial.value < _WORST]
        if done:
            rng = np.random.default_rng([self._seed, len(self._study.trials)])
            best = sorted(done, key=lambda trial: cast(float, trial.value))[:_BEST]
            near = dict(best[rng.integers(len(best))].params)
            for path, allowed in self._allowed.items():
                if isinstance(allowed, Range):
                    down, up = (math.log10(end / near[path]) for end in (allowed.low, allowed.high))
                    moved = near[path] * 10 ** rng.uniform(max(-_REACH, down), min(_REACH, up))
                    near[path] = float(min(max(moved, allowed.low), allowed.high))  # roundings
            self._study.enqueue_trial(near)
        return self.ask()

    def tell(self, trial: optuna.Trial, logloss: float | None) -> None:
        """Report the log loss of a trial; None when it diverged."""
        self._study.tell(trial, _WORST if logloss is None or not math.isfinite(logloss) else logloss)


def judged_logloss(fitted: RunResult, select: Select, block: int) -> float:
    """Return the log loss by which a run is compared with others of its entrant.

    Args:
        fitted: the run.
        select: the samples that judge.
        block: samples per block.

    Returns:
        Mean log loss in nats.
    """
    if select == "val":
        return cast(float, fitted.summary.val.logloss)  # there are validation samples
    labels, probability, weights = fitted.progressive.at(~_reports(len(fitted.progressive.labels), block))
    return float(np.average(log_losses(labels, probability), weights=weights))


def reported_samples(samples: int, select: Select, block: int) -> npt.NDArray[np.bool_]:
    """Return which of N samples of the progressive validation the report may use, (N,)."""
    return np.ones(samples, np.bool_) if select == "val" else _reports(samples, block)


def reported(fitted: RunResult, select: Select, block: int) -> RunResult:
    """Return a run with those samples of its progressive validation that the report may use, and their metrics."""
    kept = fitted.progressive.at(reported_samples(len(fitted.progressive.labels), select, block))
    summary = replace(fitted.summary, progressive=binary_metrics(*kept))
    return replace(fitted, progressive=kept, summary=summary)


def at_an_edge(config: RunConfig, chosen: Mapping[str, Any]) -> list[str]:
    """Return the chosen numbers that lie at an end of their range, where a wider one might hold a better choice.

    Args:
        config: of the optimizer with its preset.
        chosen: hyper-parameters by path below `optim`.

    Returns:
        Their paths.
    """
    found: list[str] = []
    for path, allowed in config.optim.search_space.items():
        if isinstance(allowed, Range) and path in chosen:
            place = math.log10(chosen[path] / allowed.low) / allowed.decades
            if min(place, 1 - place) < _EDGE:
                found.append(path)
    return found


def _distribution(allowed: Range | Choice) -> BaseDistribution:
    if isinstance(allowed, Range):
        return FloatDistribution(allowed.low, allowed.high, log=True)
    return CategoricalDistribution(allowed.values)


def _reports(samples: int, block: int) -> npt.NDArray[np.bool_]:
    return np.arange(samples) // block % 2 == 1
