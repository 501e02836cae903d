"""The request of an evaluation, and checks for options that exclude each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlrm_adahessian.data.config import BadRows
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.evaluation.predictions import is_predictions
from dlrm_adahessian.evaluation.rows import Part
from dlrm_adahessian.evaluation.slices import check_slices
from dlrm_adahessian.runs.files import why_not_plain
from dlrm_adahessian.runs.sealed import require_writable


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """An evaluation of models on samples, or of saved predictions.

    Attributes:
        runs: run directories, or checkpoints in them; empty if `data` are predictions.
        data: raw samples with or without labels, in the formats of training's `--data-path`; or a folder of prepared data;
            or predictions.
        out: parquet file to write. Bad lines go to OUT.rejects.tsv.
        report: HTML file to write, different from all other files.
        against: predictions of other models on the same samples.
        slices: arguments of `--slices`.
        part: part of the prepared data, or of the raw data that the runs used.
        best: use the checkpoint of the best validation, even if the run did not stop early.
        bad_rows: handling of bad lines in raw data.
        calibrated: apply the calibration of each run.
        unseen: raise an error for samples that a run was trained on.
    """

    runs: Sequence[Path] = ()
    data: Sequence[str]
    out: Path | None = None
    report: Path | None = None
    against: Sequence[str] = ()
    slices: Sequence[str] = ()
    part: Part = "all"
    best: bool = False
    bad_rows: BadRows = "strict"
    calibrated: bool = False
    unseen: bool = False

    def check(self) -> bool:
        """Check options and output files before anything slow begins.

        Returns:
            Whether `data` are predictions.

        Raises:
            UsageError: some options exclude each other.
        """
        stored = self._are_predictions()
        scoring = (
            self.runs,
            self.out,
            self.best,
            self.calibrated,
            self.part != "all",
            self.bad_rows != "strict",
        )
        if stored and any(scoring):
            raise UsageError(
                f"{self.data[0]} contains predictions, which cannot be scored again. Leave out --run, --out, --best, "
                "--calibrated, --part, and --bad-rows, or pass samples with --data-path and predictions with --against."
            )
        if not stored and not self.runs:
            raise UsageError(
                f"{self.data[0]} does not contain predictions. Pass a model to score its samples with --run."
            )
        if self.bad_rows == "quarantine" and self.out is None:
            raise UsageError(
                "Bad lines are written next to the predictions. Choose a file for these with --out."
            )
        if bad := [path for path in self.against if not is_predictions(path)]:
            raise UsageError(f"--against requires parquet files of predictions, but {bad[0]} is not one.")
        if stored:
            check_slices(self.slices, None)
        self._check_results()
        return stored

    def _are_predictions(self) -> bool:
        stored = [path for path in self.data if is_predictions(path)]
        if stored and len(stored) < len(self.data):
            other = next(path for path in self.data if path not in stored)
            raise UsageError(
                f"--data-path takes either samples or predictions, but {stored[0]} contains predictions and {other} does "
                "not. Pass the predictions with --against."
            )
        return bool(stored)

    def _check_results(self) -> None:
        """Check that results do not overwrite an input or each other, and that they can be written."""
        taken = {Path(path).resolve() for path in (*self.data, *self.against)}
        for flag, path in (("--out", self.out), ("--report", self.report)):
            if path is None:
                continue
            if found := why_not_plain(path):
                raise UsageError(
                    f"{flag} must name a plain file, but {path} is {found}. Choose another file."
                )
            if path.resolve() in taken:
                raise UsageError(
                    f"{flag} must name a file of its own, but {path} is also used by another flag. Choose another file."
                )
            taken.add(path.resolve())
            require_writable(path.parent, flag)
