# pyright: basic
"""Find the run that a warm start begins with, and check that it has finished and has the same model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlrm_adahessian.checkpoint.reader import Checkpoint
from dlrm_adahessian.config import RunConfig, asdict
from dlrm_adahessian.errors import CheckpointError, UsageError
from dlrm_adahessian.runs.finished import SUMMARY
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runtime.settings import changes
from dlrm_adahessian.train.learnt import newest_checkpoint
from dlrm_adahessian.train.recorded import RecordedRun

_NOT_SHAPES = ("dropout", "initial_rows", "l2_weights", "l2_rows")
"""Settings of a model that do not change the shapes of its weights."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The initial state of a warm start.

    Attributes:
        run: run directory that it comes from.
        checkpoint: checkpoint of the same model, whose tables may have fewer embedding rows.
        with_state: whether to load the optimizer state too, because the optimizers are the same.
    """

    run: Path
    checkpoint: Checkpoint
    with_state: bool

    def told(self, table_rows: Sequence[int]) -> str:
        """Describe the warm start for the log, given the current number of embedding rows of each table."""
        before, now = sum(self.checkpoint.table_rows.values()), sum(table_rows)
        state = (
            "with optimizer state"
            if self.with_state
            else "without optimizer state, because the optimizer differs"
        )
        return (
            f"starting from step {self.checkpoint.step} of {self.run}, {state}: {before:,} embedding rows from that run, "
            f"{now - before:,} new ones"
        )


def find_start(config: RunConfig, folder: Path) -> tuple[RunConfig, Start]:
    """Find the run to start from. A collective: all ranks call it.

    Args:
        config: settings of the run.
        folder: the run directory in `init_from`, the same path on all ranks.

    Returns:
        The settings, completed with the digest of the checkpoint, and the start.

    Raises:
        UsageError: that run has not finished, or has another model.
        CheckpointError: its newest checkpoint is not the one that the settings name.
    """
    recorded = RecordedRun.read(RunDirectory(folder))
    _require_model(config, recorded)
    if not (folder / SUMMARY).exists():
        raise UsageError(
            f"--init-from requires a finished run, but {folder} has no {SUMMARY}. Finish that run with --resume."
        )
    checkpoint = newest_checkpoint(recorded)
    if config.init_checkpoint not in (None, checkpoint.digest):
        raise CheckpointError(
            f"This run started from checkpoint {config.init_checkpoint} of {folder}, but the newest checkpoint there is now "
            f"{checkpoint.digest}, of step {checkpoint.step}. Restore that run from a copy, or start another run with --out."
        )
    ours, theirs = config.optim, recorded.config.optim
    start = Start(
        run=folder,
        checkpoint=checkpoint,
        with_state=(ours.dense.name, ours.rows.name) == (theirs.dense.name, theirs.rows.name),
    )
    return replace(config, init_checkpoint=checkpoint.digest), start


def _require_model(config: RunConfig, recorded: RecordedRun) -> None:
    def shapes(of: RunConfig) -> dict[str, Any]:
        return {name: value for name, value in asdict(of)["model"].items() if name not in _NOT_SHAPES}

    if changed := changes({"model": shapes(recorded.config)}, {"model": shapes(config)}):
        raise UsageError(
            f"The model must be the same as in {recorded.folder}, but these settings differ: {', '.join(changed)}. Leave "
            "them out, or train a new model without --init-from."
        )
