"""What an evaluation is asked for, and what does not go together."""

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
    """Models on samples, or predictions that were made before.

    Attributes:
        runs: run directories of training jobs, or checkpoints in them; none when `data` are predictions.
        data: raw samples as `--data-path` of training, with labels or without; or a folder of prepared ones; or predictions.
        out: the parquet file to write; bad lines go beside it, into OUT.rejects.tsv.
        report: the HTML file that will be written, which is none of the others.
        against: predictions of the same samples by other models.
        slices: words of `--slices`.
        part: of prepared samples, or of the raw ones that those of the runs were prepared from.
        best: use the checkpoint of the best validation even where the run did not stop early.
        bad_rows: what happens to bad lines of raw samples.
        calibrated: predict with the calibration of each run.
        unseen: refuse samples that a run was trained on.
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
        """Refuse what does not go together, and files that cannot be written, before anything slow begins.

        Returns:
            Whether `data` are predictions.

        Raises:
            UsageError: it does not go together.
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
                f"{self.data[0]} holds predictions, which no model scores again; leave out --run, --out, --best, "
                "--calibrated, --part and --bad-rows, or give the rows as --data-path and the predictions as --against"
            )
        if not stored and not self.runs:
            raise UsageError(
                f"{self.data[0]} holds no predictions; name the model that scores its rows with --run"
            )
        if self.bad_rows == "quarantine" and self.out is None:
            raise UsageError(
                "bad lines are put aside beside the predictions; name a file for these with --out"
            )
        if bad := [path for path in self.against if not is_predictions(path)]:
            raise UsageError(f"--against takes parquet files of predictions, and {bad[0]} is none")
        if stored:
            check_slices(self.slices, None)
        self._check_results()
        return stored

    def _are_predictions(self) -> bool:
        stored = [path for path in self.data if is_predictions(path)]
        if stored and len(stored) < len(self.data):
            other = next(path for path in self.data if path not in stored)
            raise UsageError(
                f"--data-path takes rows or predictions, and {stored[0]} holds predictions, {other} does not; "
                "give predictions beside rows as --against"
            )
        return bool(stored)

    def _check_results(self) -> None:
        """Refuse results that would replace what is read, or that cannot be written."""
        taken = {Path(path).resolve() for path in (*self.data, *self.against)}
        for flag, path in (("--out", self.out), ("--report", self.report)):
            if path is None:
                continue
            if found := why_not_plain(path):
                raise UsageError(
                    f"{flag} is a plain file to write, and {path} is {found}; name another, or one that is not there"
                )
            if path.resolve() in taken:
                raise UsageError(
                    f"{flag} is a file to write, and {path} is read, or written for another flag; name another"
                )
            taken.add(path.resolve())
            require_writable(path.parent, flag)
