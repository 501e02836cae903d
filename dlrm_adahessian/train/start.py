# pyright: basic
"""The run that another one starts from: it is finished, and of the same model."""

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
"""Settings of a model that its weights do not depend on."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run begins with in place of random weights.

    Attributes:
        run: the run directory that it is from.
        checkpoint: of the same model, whose tables may have fewer rows.
        with_state: whether the state of the optimizer goes on too, as its rules are the same.
    """

    run: Path
    checkpoint: Checkpoint
    with_state: bool

    def told(self, table_rows: Sequence[int]) -> str:
        """Say what goes on, in tables that have so many rows now."""
        before, now = sum(self.checkpoint.table_rows.values()), sum(table_rows)
        state = (
            "and the state of its optimizer"
            if self.with_state
            else "without state, as its optimizer was another"
        )
        return (
            f"starting from step {self.checkpoint.step} of {self.run}, {state}; its {before:,} rows of tables and "
            f"{now - before:,} new ones"
        )


def find_start(config: RunConfig, folder: Path) -> tuple[RunConfig, Start]:
    """Find what a run starts from; all ranks call it.

    Args:
        config: of the run.
        folder: the run directory of `init_from`, as all ranks see it.

    Returns:
        The configuration with the name of the checkpoint, and the checkpoint.

    Raises:
        UsageError: the run there has not finished, or has another model.
        CheckpointError: its newest checkpoint is not the one that the configuration names.
    """
    recorded = RecordedRun.read(RunDirectory(folder))
    _require_model(config, recorded)
    if not (folder / SUMMARY).exists():
        raise UsageError(
            f"--init-from names a run that has finished, and {folder} has no {SUMMARY}; let it finish, with --resume"
        )
    checkpoint = newest_checkpoint(recorded)
    if config.init_checkpoint not in (None, checkpoint.digest):
        raise CheckpointError(
            f"this run started from checkpoint {config.init_checkpoint} of {folder}, and the newest there is "
            f"{checkpoint.digest}, of step {checkpoint.step}; restore the run from a copy, or start another run with --out"
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
            f"a run has the model of the one that it starts from, and that of {recorded.folder} differs: "
            f"{', '.join(changed)}; leave these settings out, or train a new model without --init-from"
        )
