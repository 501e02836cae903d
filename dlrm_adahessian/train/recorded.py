"""What a run directory says of its run, and whether a resume goes on with that run.

A resume keeps the settings and the samples that determine the results. More epochs alone are another matter: where no
learning rate depends on the number of all steps, the run goes on as one that planned them from the start.
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
    """A run as its config.json describes it.

    Attributes:
        folder: the run directory.
        config: the settings.
        rows: fingerprint of the prepared rows.
        prepared: all that is told of these.
    """

    folder: Path
    config: RunConfig
    rows: str
    prepared: Mapping[str, Any]

    @classmethod
    def find(cls, run: RunDirectory) -> Self | None:
        """Return what a run directory says, or None where it says nothing yet; raises as `read`."""
        return cls.read(run) if (run.path / "config.json").exists() else None

    @classmethod
    def read(cls, run: RunDirectory) -> Self:
        """Read what a run directory says.

        Args:
            run: the directory.

        Returns:
            The run.

        Raises:
            CheckpointError: config.json does not name the rows, or holds settings that no run has; other errors as
                `read_config`.
        """
        resolved = run.read_config()
        prepared = resolved.pop("prepared", None)
        rows = prepared.get("fingerprint") if isinstance(prepared, dict) else None
        if not isinstance(prepared, dict) or not isinstance(rows, str):
            raise CheckpointError(
                f"the key prepared of {run.path / 'config.json'} must be an object that names the rows by a text "
                f"fingerprint, found {prepared!r:.100}; restore the file from a copy, or train again"
            )
        try:
            config = from_dict(resolved)
        except UsageError as error:
            raise CheckpointError(
                f"{run.path / 'config.json'} must hold the settings of a run: {error}; restore the file from a copy, or "
                "train again"
            ) from error
        return cls(folder=run.path, config=config, rows=rows, prepared=prepared)

    @property
    def all_files(self) -> list[Mapping[str, Any]]:
        """What identifies each file of its rows, and of the rows of the runs that it goes on from."""
        return [*files_of(self.prepared, "earlier"), *files_of(self.prepared)]

    def with_start(self, config: RunConfig) -> RunConfig:
        """Return the settings of a resume with the checkpoint that the run started from, unless they name one."""
        if config.init_from is None or config.init_checkpoint is not None:
            return config
        return replace(config, init_checkpoint=self.config.init_checkpoint)

    def require_settings(self, config: RunConfig) -> None:
        """Refuse a resume with settings that give other results; more epochs are allowed where the schedule allows them.

        Args:
            config: of the resume.

        Raises:
            CheckpointError: some differ; it names each with both values.
        """
        shares = config.optim.schedule.shares
        longer = config.epochs > self.config.epochs
        kept = replace(config, epochs=self.config.epochs) if longer and not shares else config
        if kept.fingerprint(self.rows) == self.config.fingerprint(self.rows):
            return
        why = ""
        if longer and shares:
            why = f" (more epochs change the rate of every step: {', '.join(shares)} depend on the number of all steps)"
        raise CheckpointError(
            f"a resumed run keeps its settings, and those of {self.folder} differ: "
            f"{', '.join(self._changes(kept))}{why}; leave these flags out, or start another run with --out"
        )

    def names_rows_of(self, config: RunConfig) -> bool:
        """Tell whether a resume names the rows as the run did, and prepares them alike."""
        mine = self.config
        same = (config.data_path, config.schema) == (mine.data_path, mine.schema)
        return same and not self._changes(replace(config, epochs=mine.epochs))

    def require_rows(self, config: RunConfig, rows: str) -> None:
        """Refuse a resume on other rows.

        Args:
            config: of the resume.
            rows: fingerprint of its prepared rows.

        Raises:
            CheckpointError: they are not those of the run; it names the settings that may be why.
        """
        if rows == self.rows:
            return
        changed = ", ".join(self._changes(config)) or "the settings are the same, the content is not"
        raise CheckpointError(
            f"a resumed run keeps its rows, and those of {config.data_path or config.dataset} are not those of "
            f"{self.folder}: {changed}; give --data-path the rows of the first start, or the folder that prepared names "
            f"in {self.folder / 'config.json'}, or start another run with --out"
        )

    def require_regular_end(self, config: RunConfig, *, steps_per_epoch: int, step: int) -> None:
        """Refuse to train longer after an evaluation that counts for patience, and that a longer plan would not have had.

        Args:
            config: of the resume.
            steps_per_epoch: of both.
            step: that the run has come to.

        Raises:
            CheckpointError: the run came to its end, which `eval_every` does not divide.
        """
        end = self.config.epochs * steps_per_epoch
        irregular = config.eval_every > 0 and end % config.eval_every > 0
        if config.epochs > self.config.epochs and config.patience and irregular and step == end:
            raise CheckpointError(
                f"{self.folder} was evaluated at its end, step {end}, which patience counts, and with eval_every "
                f"{config.eval_every} a run of {config.epochs} epochs would not be; start another run with --out"
            )

    def _changes(self, config: RunConfig) -> list[str]:
        return changes(self.config.identifying, config.identifying)


def files_of(prepared: Mapping[str, Any], key: str = "input") -> list[Mapping[str, Any]]:
    """Return what identifies each file of prepared rows, as a run directory tells of them; of generated ones none.

    Args:
        prepared: what the run directory says.
        key: `input` for the rows of the run itself, `earlier` for those of the runs that it goes on from.
    """
    files = prepared.get(key)
    if isinstance(files, dict):  # of a pipe there is one
        return [files]
    return files if isinstance(files, list) else []
