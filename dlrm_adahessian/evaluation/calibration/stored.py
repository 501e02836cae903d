"""The calibration that a run keeps: calibration.json in its folder, sealed, for one checkpoint of the run."""

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
        samples: how many, with a label and with weight.
        clicks: of these.
        data: where they came from, as it was named.
        part: of these rows; another than all is one of the run's own rows.
        files: what identifies raw files by their content; none of the run's own rows, of a pipe, and of earlier versions.
    """

    samples: int
    clicks: int
    data: Sequence[str]
    part: str
    files: Sequence[Mapping[str, Any]] = ()

    def share(self, files: Sequence[Mapping[str, Any]], *, part: str, own: bool) -> bool:
        """Whether some of these samples are among others, as far as is known.

        Args:
            files: what identifies the raw files of the others.
            part: of the others.
            own: whether the others are the run's own rows.

        Returns:
            Whether they are.
        """
        if self.part != "all":
            return own and part in (self.part, "all")
        return any(file in self.files for file in files)


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Calibration:
    """A map, and what it was fitted on.

    Attributes:
        step: of the checkpoint.
        digest: of the checkpoint, see `Checkpoint`.
        map: from the logits that this checkpoint serves to calibrated ones.
        rows: that it was fitted on.
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
            The calibration, of whichever checkpoint it is.

        Raises:
            NoInputError: the run has none.
            CheckpointError: it is damaged, or no map that rises.
        """
        path = run / NAME
        if not path.exists():
            raise NoInputError(
                f"{run} has no calibration; fit one with calibrate --run {run}, or leave out --calibrated"
            )
        try:
            return pydantic.TypeAdapter(cls).validate_python(read_sealed_json(path, _MOST))
        except DamagedFolderError as error:
            raise CheckpointError(f"{error}; {_remedy(run)}") from error
        except pydantic.ValidationError as error:
            wrong = error.errors(include_input=False)[0]
            raise CheckpointError(
                f"{path} must hold a calibration, and {'.'.join(map(str, wrong['loc'])) or 'it'} is none: {wrong['msg']}; "
                f"{_remedy(run)}"
            ) from error

    def write(self, run: Path) -> Path:
        """Put it in the place of the calibration that a run has; return the file."""
        write_sealed_json(run / NAME, self.asdict())
        return run / NAME

    def require(self, checkpoint: Checkpoint, run: Path) -> None:
        """Refuse a calibration of another checkpoint than the one that is read.

        Args:
            checkpoint: that is read.
            run: the run directory.

        Raises:
            CheckpointError: it is another.
        """
        if (self.step, self.digest) != (checkpoint.step, checkpoint.digest):
            other = (
                f"step {self.step:,}" if self.step != checkpoint.step else "other content at the same step"
            )
            raise CheckpointError(
                f"a calibration is of one checkpoint, and that of {run} is of {other}, where {checkpoint.path} is read; "
                f"{_remedy(run)}, on the checkpoint that you use (--best)"
            )

    def asdict(self) -> dict[str, Any]:
        """Return the calibration as JSON values."""
        return dataclasses.asdict(self)


def _remedy(run: Path) -> str:
    return f"run calibrate --run {run} again"
