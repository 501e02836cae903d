"""Search hyper-parameters, with the same number of trials and equally wide ranges for every entrant, and select trials.

A search begins with trials over the whole ranges. Refined trials follow if requested: their learning rates are within a
quarter of a decade of those of one of the best three trials, and all other hyper-parameters are the same as there.

The seed, the name of the optimizer and the results of earlier trials determine a trial. An interrupted search therefore
repeats the same trials, and finds their finished runs. Models with the same optimizer begin with the same trials, so none
has better luck.

`val` ranks trials by log loss on the validation samples after training. With few of them, the choice is nearly random.
`progressive` ranks by every other block of the progressive samples, which are ten times as many and cover the whole
training. The report then uses only the other blocks, so no sample both selects and reports.
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
"""Log loss that the sampler gets for a diverged run; any other run has a lower one."""
_BEST = 3  # best trials, near which refined trials are
_REACH = 0.25  # largest distance of a refined learning rate, in decades
_EDGE = 0.05  # share of a range, on the log scale, that counts as its end


class Search:
    """The trials of one entrant, in order."""

    def __init__(self, config: RunConfig, sampler: str, seed: int) -> None:
        """Create a search without trials.

        Args:
            config: run with the preset of the optimizer, whose search space defines the ranges.
            sampler: `random` or `tpe`.
            seed: seed of the search.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._seed = own_seed = int(fingerprint([config.optimizer, seed]), 16) % 2**32
        samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
        self._study = optuna.create_study(sampler=samplers[sampler](seed=own_seed))
        self._allowed = config.optim.search_space
        self._space = {path: _distribution(allowed) for path, allowed in self._allowed.items()}

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]]:
        """Return a new trial, whose result `tell` takes, and its hyper-parameters by path below `optim`."""
        trial = self._study.ask(self._space)
        return trial, dict(trial.params)

    def refine(self) -> tuple[optuna.Trial, dict[str, Any]]:
        """Return a trial near one of the best so far, as `ask` does. Only numbers with a range differ from that trial."""
        done = [trial for trial in self._study.trials if trial.value is not None and trial.value < _WORST]
        if done:
            rng = np.random.default_rng([self._seed, len(self._study.trials)])
            best = sorted(done, key=lambda trial: cast(float, trial.value))[:_BEST]
            near = dict(best[rng.integers(len(best))].params)
            for path, allowed in self._allowed.items():
                if isinstance(allowed, Range):
                    down, up = (math.log10(end / near[path]) for end in (allowed.low, allowed.high))
                    moved = near[path] * 10 ** rng.uniform(max(-_REACH, down), min(_REACH, up))
                    near[path] = float(min(max(moved, allowed.low), allowed.high))  # undo rounding errors
            self._study.enqueue_trial(near)
        return self.ask()

    def tell(self, trial: optuna.Trial, logloss: float | None) -> None:
        """Report the log loss of a trial; None if it diverged."""
        self._study.tell(trial, _WORST if logloss is None or not math.isfinite(logloss) else logloss)


def judged_logloss(fitted: RunResult, select: Select, block: int) -> float:
    """Return the log loss of a run on the selection set, which ranks the trials of an entrant.

    Args:
        fitted: finished run.
        select: selection set.
        block: samples per block.

    Returns:
        Mean log loss in nats.
    """
    if select == "val":
        return cast(float, fitted.summary.val.logloss)  # there are validation samples
    labels, probability, weights = fitted.progressive.at(~_reports(len(fitted.progressive.labels), block))
    return float(np.average(log_losses(labels, probability), weights=weights))


def reported_samples(samples: int, select: Select, block: int) -> npt.NDArray[np.bool_]:
    """Return (N,) bool: which of N progressive samples the report may use."""
    return np.ones(samples, np.bool_) if select == "val" else _reports(samples, block)


def reported(fitted: RunResult, select: Select, block: int) -> RunResult:
    """Reduce the progressive samples of a run, and their metrics, to the samples that the report may use."""
    kept = fitted.progressive.at(reported_samples(len(fitted.progressive.labels), select, block))
    summary = replace(fitted.summary, progressive=binary_metrics(*kept))
    return replace(fitted, progressive=kept, summary=summary)


def at_an_edge(config: RunConfig, chosen: Mapping[str, Any]) -> list[str]:
    """Return the selected numbers at an end of their range. A wider range might have better ones.

    Args:
        config: run with the preset of the optimizer.
        chosen: selected hyper-parameters by path below `optim`.

    Returns:
        Paths of these numbers.
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
