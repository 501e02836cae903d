"""Draws of hyper-parameters: as many for each optimizer, from ranges that are equally wide for all.

A draw is determined by the seed, the optimizer's name and the results of earlier draws, so a search that was cut off
is repeated by asking again, with finished runs at hand.
"""

import math
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.optim.base import Choice, Range
from dlrm_adahessian.runs.sealed import fingerprint

_WORST = 1e6
"""Log loss told to the sampler for a run that diverged; any finite run is better."""


class Search:
    """One optimizer's draws, in order."""

    def __init__(self, config: RunConfig, sampler: str, seed: int) -> None:
        """Start before the first draw.

        Args:
            config: of the optimizer with its preset; says what may be drawn.
            sampler: `random` or `tpe`.
            seed: of the comparison.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        own_seed = int(fingerprint([config.optimizer, seed]), 16) % 2**32
        samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
        self._study = optuna.create_study(sampler=samplers[sampler](seed=own_seed))
        self._space = {path: _distribution(allowed) for path, allowed in config.optim.search_space.items()}

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]]:
        """Return a trial to be told about, and its hyper-parameters by path below `optim`."""
        trial = self._study.ask(self._space)
        return trial, dict(trial.params)

    def tell(self, trial: optuna.Trial, logloss: float | None) -> None:
        """Report the log loss of a trial; None when it diverged."""
        self._study.tell(trial, _WORST if logloss is None or not math.isfinite(logloss) else logloss)


def _distribution(allowed: Range | Choice) -> BaseDistribution:
    if isinstance(allowed, Range):
        return FloatDistribution(allowed.low, allowed.high, log=True)
    return CategoricalDistribution(allowed.values)
