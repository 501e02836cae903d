"""The main job: train an optimizer and its baseline on the same rows, and compare them.

Under torchrun all ranks run it. The first one prepares, holds the run directory and reports; a failure on any ends all,
and one of them tells of it.
"""

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dlrm_adahessian.checkpoint.reader import latest
from dlrm_adahessian.config import RunConfig, asdict, baseline_of
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.data.prepared.folder import DamagedFolderError, PreparedData, map_prepared
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import StorageError
from dlrm_adahessian.runs.run_directory import RUNS, RunDirectory, default_run_path
from dlrm_adahessian.runs.sealed import sealed_folder
from dlrm_adahessian.runtime.device import find_device
from dlrm_adahessian.statistics.comparison import compare_predictions
from dlrm_adahessian.train.loop import fit
from dlrm_adahessian.train.results import RunResult
from dlrm_adahessian.train.run_cache import find_or_fit

logger = logging.getLogger(__name__)


def run_job(config: RunConfig) -> tuple[Path, dict[str, Any]] | None:
    """Train what `config` says, then its baseline; all ranks call it.

    Args:
        config: of the run.

    Returns:
        On the first rank the run directory and what was written to its summary.json, None on the others.
    """
    with ExitStack() as stack:
        stack.enter_context(init_process_group(find_device(config.device), config.timeout))
        stack.enter_context(ranks.one_voice())
        run, data = _open(config, stack)
        ours = fit(config, data, run, title=config.optimizer)
        baseline = None if config.baseline == "none" else _baseline(config, data)
        if ours is None:
            return None
        summary = _summary(ours, baseline)
        run.write_summary(summary)
        return run.path, summary


def _open(config: RunConfig, stack: ExitStack) -> tuple[RunDirectory, PreparedData]:
    """Lock the run directory and prepare the rows on the first rank; then the others open what it made.

    Args:
        config: of the run.
        stack: holds the lock.

    Returns:
        The run directory and the rows.
    """
    opened: PreparedData | None = None

    def lead() -> tuple[str, str]:
        nonlocal opened
        path = config.out or default_run_path(RUNS, config.default_stem, resume=config.resume)
        run = stack.enter_context(RunDirectory.create(path, resume=config.resume))
        opened = open_dataset(
            config.dataset, config.data_path, config.data, rows=config.rows, bad_rows=config.bad_rows
        )
        # With a checkpoint the folder describes itself already, and a resume with other settings is refused.
        if latest(run.checkpoints) is None:
            _describe(run, config, opened)
        return str(path), str(opened.folder)

    # Preparing may take hours.
    path, folder = ranks.first_does(lead, patient=True)

    return RunDirectory(Path(path)), opened or _follow(Path(folder))


def _follow(folder: Path) -> PreparedData:
    try:
        return map_prepared(folder)
    except DamagedFolderError as error:
        raise StorageError(
            f"all ranks read the rows that the first one prepares, and on this one {error}; give --data.cache-dir a folder "
            "that all machines share"
        ) from error


def _describe(run: RunDirectory, config: RunConfig, data: PreparedData) -> None:
    """Write what an evaluation needs beside the checkpoints."""
    prepared = {"folder": str(data.folder.resolve()), "fingerprint": data.fingerprint}
    run.write_config({**asdict(config), "prepared": prepared})
    with sealed_folder(run.vocabulary, {"fingerprint": data.fingerprint}) as folder:
        data.vocabulary.save(folder)


def _baseline(config: RunConfig, data: PreparedData) -> RunResult | None:
    """Train the baseline, or take a finished one whose results would be the same."""
    plain = baseline_of(config)
    if plain.fingerprint(data.fingerprint) == config.fingerprint(data.fingerprint):
        logger.info("%s is the baseline itself; nothing to compare it with", config.optimizer)
        return None
    return find_or_fit(plain, data, config.data.cache_dir / "baselines", title=f"baseline {plain.optimizer}")


def _summary(ours: RunResult, baseline: RunResult | None) -> dict[str, Any]:
    summary = {**ours.summary.asdict(), "baseline": None, "difference": None, "progressive_difference": None}
    if baseline is None:
        return summary
    parts = ("optimizer", "curvature", "progressive", "val", "test", "train")
    theirs = baseline.summary.asdict()
    summary["baseline"] = {part: theirs[part] for part in parts}
    labels, probability = ours.test
    summary["difference"] = compare_predictions(labels, probability, baseline.test[1]).asdict()
    labels, probability = ours.progressive
    if len(probability) == len(baseline.progressive[1]):  # not after an early stop within the first epoch
        difference = compare_predictions(labels, probability, baseline.progressive[1])
        summary["progressive_difference"] = difference.asdict()
    return summary
