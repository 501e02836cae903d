"""The main job: train an optimizer and its baseline on the same rows, and compare them."""

import logging
import os
from pathlib import Path
from typing import Any

from dlrm_adahessian.artifacts import RunDirectory, default_run_path
from dlrm_adahessian.config import RunConfig, asdict, baseline_of
from dlrm_adahessian.data.cache import open_dataset
from dlrm_adahessian.data.prepared import PreparedData
from dlrm_adahessian.distributed.checkpoint import latest
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.reuse import find_or_fit
from dlrm_adahessian.statistics.comparison import compare_predictions
from dlrm_adahessian.storage import sealed_folder
from dlrm_adahessian.trainer import Fitted, fit

logger = logging.getLogger(__name__)

RUNS = Path("runs")


def run_job(config: RunConfig) -> tuple[Path, dict[str, Any]]:
    """Train what `config` says, then its baseline.

    Args:
        config: of the run.

    Returns:
        The run directory and what was written to its summary.json.

    Raises:
        UsageError: torchrun started several ranks.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "training runs in one process in this version, got several ranks; start it without torchrun"
        )
    path = config.out or default_run_path(RUNS, config.default_stem, resume=config.resume)
    with RunDirectory.create(path, resume=config.resume) as run:
        data = open_dataset(
            config.dataset, config.data_path, config.data, rows=config.rows, bad_rows=config.bad_rows
        )
        # With a checkpoint the folder describes itself already, and a resume with other settings is refused.
        if latest(run.checkpoints) is None:
            _describe(run, config, data)
        ours = fit(config, data, run, title=config.optimizer)
        baseline = None if config.baseline == "none" else _baseline(config, data)
        summary = _summary(ours, baseline)
        run.write_summary(summary)
    return path, summary


def _describe(run: RunDirectory, config: RunConfig, data: PreparedData) -> None:
    """Write what an evaluation needs beside the checkpoints."""
    prepared = {"folder": str(data.folder.resolve()), "fingerprint": data.fingerprint}
    run.write_config({**asdict(config), "prepared": prepared})
    with sealed_folder(run.vocabulary, {"fingerprint": data.fingerprint}) as folder:
        data.vocabulary.save(folder)


def _baseline(config: RunConfig, data: PreparedData) -> Fitted | None:
    """Train the baseline, or take a finished one whose results would be the same."""
    plain = baseline_of(config)
    if plain.fingerprint(data.fingerprint) == config.fingerprint(data.fingerprint):
        logger.info("%s is the baseline itself; nothing to compare it with", config.optimizer)
        return None
    return find_or_fit(plain, data, config.data.cache_dir / "baselines", title=f"baseline {plain.optimizer}")


def _summary(ours: Fitted, baseline: Fitted | None) -> dict[str, Any]:
    summary = {**ours.summary, "baseline": None, "difference": None, "progressive_difference": None}
    if baseline is None:
        return summary
    parts = ("optimizer", "curvature", "progressive", "val", "test", "train")
    summary["baseline"] = {part: baseline.summary[part] for part in parts}
    labels, probability = ours.test
    summary["difference"] = compare_predictions(labels, probability, baseline.test[1]).asdict()
    labels, probability = ours.progressive
    if len(probability) == len(baseline.progressive[1]):  # not after an early stop within the first epoch
        difference = compare_predictions(labels, probability, baseline.progressive[1])
        summary["progressive_difference"] = difference.asdict()
    return summary
