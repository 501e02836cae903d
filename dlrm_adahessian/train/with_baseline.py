"""Train an optimizer and its baseline on the same samples, and compare them.

Under torchrun all ranks take part, and the first one reports.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dlrm_adahessian.config import RunConfig, baseline_of
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.errors import DivergedError, ProgramError
from dlrm_adahessian.runs.finished import FinishedRun
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.statistics.comparison import Difference, compare_predictions
from dlrm_adahessian.train.board import copy_curves
from dlrm_adahessian.train.loop import fit
from dlrm_adahessian.train.opened_run import OpenedRun, on_all_ranks, opened_run
from dlrm_adahessian.train.results import Predicted, RunResult, RunSummary
from dlrm_adahessian.train.run_cache import find_or_fit, run_path

logger = logging.getLogger(__name__)

_OF_BASELINE = (
    "optimizer",
    "curvature",
    "curvature_of",
    "progressive",
    "val",
    "test",
    "train",
)  # keys of the baseline in summary.json


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """A run and its baseline.

    Attributes:
        folder: the run directory.
        run: results of the run.
        baseline: results of the baseline; None without one.
        difference: run minus baseline on the test samples.
        progressive_difference: the same for the samples of progressive validation; None if the two runs predicted different
            samples, as after an early stop within the first epoch.
    """

    folder: Path
    run: RunSummary
    baseline: RunSummary | None
    difference: Difference | None
    progressive_difference: Difference | None

    def asdict(self) -> dict[str, Any]:
        """Return the content of summary.json."""
        theirs = None
        if self.baseline is not None:
            values = self.baseline.asdict()
            theirs = {part: values[part] for part in _OF_BASELINE}
        return {
            **self.run.asdict(),
            "baseline": theirs,
            "difference": self.difference and self.difference.asdict(),
            "progressive_difference": self.progressive_difference and self.progressive_difference.asdict(),
        }


def run_job(config: RunConfig) -> JobResult | None:
    """Train a run and its baseline. A collective: all ranks call it.

    Args:
        config: settings of the run.

    Returns:
        The content of summary.json on the first rank, None on the others.
    """
    with on_all_ranks(config), opened_run(config) as run:
        config, data, device = run.config, run.data, run.device
        plain = _plain(config, data)
        _show_curves(plain, run)  # the baseline of an earlier run is visible from the first step
        ours = fit(config, data, run.directory, device, title=config.optimizer, start=run.start)
        baseline = None if plain is None else _baseline(plain, data, device)
        if ours is None:
            return None
        result = _compared(run.directory.path, ours, baseline)
        FinishedRun.seal(run.directory.path, config.fingerprint(data.fingerprint), result.asdict())
        _show_curves(plain, run)
        return result


def _plain(config: RunConfig, data: PreparedData) -> RunConfig | None:
    """Return the settings of the baseline; None if the run has none or is its own baseline."""
    if config.baseline == "none":
        return None
    plain = baseline_of(config)
    if plain.fingerprint(data.fingerprint) != config.fingerprint(data.fingerprint):
        return plain
    logger.info("%s is the baseline, so there is nothing to compare it with", config.optimizer)
    return None


def _show_curves(plain: RunConfig | None, run: OpenedRun) -> None:
    """Copy the curves of the baseline into the folder of the run's curves."""
    if plain is not None and ranks.is_first():
        found = RunDirectory(run_path(plain, run.data, _root(plain), run.device))
        copy_curves(found.curves, run.directory.curves / "baseline")


def _root(plain: RunConfig) -> Path:
    return plain.data.cache_dir / "baselines"


def _baseline(plain: RunConfig, data: PreparedData, device: torch.device) -> RunResult | None:
    """Train the baseline, or load an equivalent finished run; None if it diverges."""
    try:
        return find_or_fit(plain, data, _root(plain), device, title=f"baseline {plain.optimizer}")
    except ProgramError as error:
        if error.exit_code != DivergedError.exit_code:  # all ranks raise it, although only one reports it
            raise
        if str(error):
            logger.warning(
                "no difference from %s is reported, because the baseline diverged: %s", plain.optimizer, error
            )
        return None


def _compared(folder: Path, ours: RunResult, baseline: RunResult | None) -> JobResult:
    return JobResult(
        folder=folder,
        run=ours.summary,
        baseline=baseline and baseline.summary,
        difference=baseline and _difference(ours.test, baseline.test),
        progressive_difference=baseline and _difference(ours.progressive, baseline.progressive),
    )


def _difference(ours: Predicted, theirs: Predicted) -> Difference | None:
    if len(ours.labels) != len(theirs.labels):
        return None
    return compare_predictions(ours.labels, ours.probability, theirs.probability, ours.weights)
