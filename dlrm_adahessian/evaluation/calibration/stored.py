"""Store the calibration of one checkpoint in its run directory, in the sealed file calibration.json."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import pydantic
from pydantic import ConfigDict

from dlrm_adahessian.checkpoint.reader import Checkpoint
from dlrm_adahessian.errors import CheckpointError, NoInputError
from dlrm_adahessian.evaluation.calibration.maps import CalibrationMap
from dlrm_adahessian.runs.sealed import DamagedFolderError
from dlrm_adahessian.runs.sealed_json import read_sealed_json, write_sealed_json

NAME = "calibration.json"
FORMAT = 1
_MOST = 1 << 22  # bytes; the largest map takes 100 kB, the digests of 10,000 files 1 MB
_CHECKED = ConfigDict(extra="forbid")


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_CHECKED)
class CalibrationRows:
    """The samples that a map was fitted on.

    Attributes:
        samples: number of labeled samples with positive weight.
        clicks: number of clicks among them.
        data: origin of the samples, as the user named it.
        part: part of the data. Any part except `all` belongs to the run's own data.
        files: records that identify raw files by content; empty for the run's own data, for a pipe, and in older versions.
    """

    samples: int
    clicks: int
    data: Sequence[str]
    part: str
    files: Sequence[Mapping[str, Any]] = ()

    def share(self, files: Sequence[Mapping[str, Any]], *, part: str, own: bool) -> bool:
        """Return whether some of these samples are known to be among other samples.

        Args:
            files: records that identify the raw files of the other samples.
            part: part of the other samples.
            own: whether the other samples are the run's own data.

        Returns:
            Whether they are.
        """
        if self.part != "all":
            return own and part in (self.part, "all")
        return any(file in self.files for file in files)


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Calibration:
    """A map, and the samples it was fitted on.

    Attributes:
        step: step of the checkpoint.
        digest: digest of the checkpoint; see `Checkpoint`.
        map: map from the logits of this checkpoint to calibrated ones.
        rows: samples that it was fitted on.
    """

    format: Literal[1] = FORMAT
    step: int
    digest: str
    map: CalibrationMap
    rows: CalibrationRows

    @classmethod
    def read(cls, run: Path) -> Self:
        """Read the calibration of a run.

        Args:
            run: the run directory.

        Returns:
            The calibration, of any checkpoint.

        Raises:
            NoInputError: the run has no calibration.
            CheckpointError: the file is damaged, or its map does not rise.
        """
        path = run / NAME
        if not path.exists():
            raise NoInputError(
                f"{run} has no calibration. Fit one with calibrate --run {run}, or leave out --calibrated."
            )
        try:
            return pydantic.TypeAdapter(cls).validate_python(read_sealed_json(path, _MOST))
        except DamagedFolderError as error:
            raise CheckpointError(f"{error}. {_remedy(run)}.") from error
        except pydantic.ValidationError as error:
            wrong = error.errors(include_input=False)[0]
            raise CheckpointError(
                f"Invalid calibration in {path}, {'.'.join(map(str, wrong['loc'])) or 'top level'}: {wrong['msg']}. "
                f"{_remedy(run)}."
            ) from error

    def write(self, run: Path) -> Path:
        """Replace the calibration of a run, and return the file."""
        write_sealed_json(run / NAME, self.asdict())
        return run / NAME

    def require(self, checkpoint: Checkpoint, run: Path) -> None:
        """Check that the calibration belongs to a checkpoint.

        Args:
            checkpoint: the checkpoint to predict with.
            run: the run directory.

        Raises:
            CheckpointError: it belongs to another checkpoint.
        """
        if (self.step, self.digest) != (checkpoint.step, checkpoint.digest):
            other = (
                f"step {self.step:,}" if self.step != checkpoint.step else "other content at the same step"
            )
            raise CheckpointError(
                f"The calibration of {run} belongs to {other}, not to {checkpoint.path}. {_remedy(run)}, with --best if you "
                "use the best checkpoint."
            )

    def asdict(self) -> dict[str, Any]:
        """Return the calibration as JSON values."""
        return dataclasses.asdict(self)


def _remedy(run: Path) -> str:
    return f"Run calibrate --run {run} again"
