"""Read the record of a run from its directory, and check that a resume continues the same run.

A resume keeps all settings and samples that determine the results. The number of epochs may grow if no learning rate
depends on the total number of steps. The run then continues as if it had been planned longer from the start.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.errors import CheckpointError, UsageError
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runtime.settings import changes


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """A run as recorded in its config.json.

    Attributes:
        folder: the run directory.
        config: settings of the run.
        rows: fingerprint of the prepared data.
        prepared: everything config.json says about the prepared data.
    """

    folder: Path
    config: RunConfig
    rows: str
    prepared: Mapping[str, Any]

    @classmethod
    def find(cls, run: RunDirectory) -> Self | None:
        """Read a run directory; None if it has no config.json yet. Errors are those of `read`."""
        return cls.read(run) if (run.path / "config.json").exists() else None

    @classmethod
    def read(cls, run: RunDirectory) -> Self:
        """Read a run directory.

        Args:
            run: the run directory.

        Returns:
            The recorded run.

        Raises:
            CheckpointError: config.json does not identify the data, or has invalid settings. Other errors are those of
                `read_config`.
        """
        resolved = run.read_config()
        prepared = resolved.pop("prepared", None)
        rows = prepared.get("fingerprint") if isinstance(prepared, dict) else None
        if not isinstance(prepared, dict) or not isinstance(rows, str):
            raise CheckpointError(
                f"The key prepared in {run.path / 'config.json'} must be an object with a text fingerprint of the data, "
                f"found {prepared!r:.100}. Restore the file from a copy, or train again."
            )
        try:
            config = from_dict(resolved)
        except UsageError as error:
            raise CheckpointError(
                f"Invalid settings in {run.path / 'config.json'}. Restore the file from a copy, or train again. {error}"
            ) from error
        return cls(folder=run.path, config=config, rows=rows, prepared=prepared)

    @property
    def all_files(self) -> list[Mapping[str, Any]]:
        """Records that identify each file of its data, and of the data of all runs that it started from."""
        return [*files_of(self.prepared, "earlier"), *files_of(self.prepared)]

    def with_start(self, config: RunConfig) -> RunConfig:
        """Return the settings of a resume, completed with the checkpoint that the run started from."""
        if config.init_from is None or config.init_checkpoint is not None:
            return config
        return replace(config, init_checkpoint=self.config.init_checkpoint)

    def require_settings(self, config: RunConfig) -> None:
        """Check that a resume keeps all settings that determine the results. The schedule may allow more epochs.

        Args:
            config: settings of the resume.

        Raises:
            CheckpointError: settings differ. The message lists each one with both values.
        """
        shares = config.optim.schedule.shares
        longer = config.epochs > self.config.epochs
        kept = replace(config, epochs=self.config.epochs) if longer and not shares else config
        if kept.fingerprint(self.rows) == self.config.fingerprint(self.rows):
            return
        why = ""
        if longer and shares:
            why = f" (more epochs change the rate of every step, because it depends on {', '.join(shares)})"
        raise CheckpointError(
            f"A resumed run must keep its settings, but these settings of {self.folder} differ: "
            f"{', '.join(self._changes(kept))}{why}. Leave out these flags, or start another run with --out."
        )

    def names_rows_of(self, config: RunConfig) -> bool:
        """Return whether a resume names the same data as the run, with the same preparation."""
        mine = self.config
        same = (config.data_path, config.schema) == (mine.data_path, mine.schema)
        return same and not self._changes(replace(config, epochs=mine.epochs))

    def require_rows(self, config: RunConfig, rows: str) -> None:
        """Check that a resume uses the same data.

        Args:
            config: settings of the resume.
            rows: fingerprint of its prepared data.

        Raises:
            CheckpointError: the data differ. The message lists the settings that may be the cause.
        """
        if rows == self.rows:
            return
        changed = ", ".join(self._changes(config)) or "the settings are the same, but the content differs"
        raise CheckpointError(
            f"A resumed run must keep its data, but the data of {config.data_path or config.dataset} and of {self.folder} "
            f"differ: {changed}. Pass the original data with --data-path, or the folder under the key prepared in "
            f"{self.folder / 'config.json'}, or start another run with --out."
        )

    def require_regular_end(self, config: RunConfig, *, steps_per_epoch: int, step: int) -> None:
        """Refuse more epochs after a final evaluation that counts for patience, but that a longer run would not have made.

        Args:
            config: settings of the resume.
            steps_per_epoch: number of steps per epoch.
            step: number of the last step of the run so far.

        Raises:
            CheckpointError: the run reached its end, at a step that `eval_every` does not divide.
        """
        end = self.config.epochs * steps_per_epoch
        irregular = config.eval_every > 0 and end % config.eval_every > 0
        if config.epochs > self.config.epochs and config.patience and irregular and step == end:
            raise CheckpointError(
                f"{self.folder} was evaluated at its last step, {end}, and that evaluation counts for patience. A run of "
                f"{config.epochs} epochs with eval_every {config.eval_every} would not evaluate there. Start another run "
                "with --out."
            )

    def _changes(self, config: RunConfig) -> list[str]:
        return changes(self.config.identifying, config.identifying)


def files_of(prepared: Mapping[str, Any], key: str = "input") -> list[Mapping[str, Any]]:
    """Return the records that identify each file of the prepared data; generated data has none.

    Args:
        prepared: the key `prepared` of config.json.
        key: `input` for the data of the run itself, `earlier` for the data of the runs that it started from.
    """
    files = prepared.get(key)
    if isinstance(files, dict):  # a pipe has a single record
        return [files]
    return files if isinstance(files, list) else []
