"""Implement `calibrate`: fit a map from the predictions of a run to click rates, and measure its effect."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dlrm_adahessian.checkpoint.step_folders import require_run
from dlrm_adahessian.commands.arguments import parsed
from dlrm_adahessian.commands.evaluate import evaluation_table, require_html, write_report
from dlrm_adahessian.runtime.settings import settings
from dlrm_adahessian.runtime.terminal import say


@settings
class CalibrateConfig:
    """Fit a calibration of a trained model on data that it was not trained on, and store it in the run directory.

    The commands `evaluate` and `export` apply it on request. Metrics before and after use the same samples. Those after are
    cross-fitted, so no sample calibrates itself.
    """

    run: Path
    """Run directory, or a checkpoint in it."""
    data_path: tuple[str, ...] = ()
    """Labeled data, as for `evaluate`; default: the validation samples of the run."""
    method: Literal["platt", "isotonic"] = "platt"
    """platt: logistic regression on the logit; isotonic: monotone step function."""
    part: Literal["all", "train", "val", "test"] | None = None
    """Part of prepared data, or of the raw data that it was prepared from."""
    best: bool = False
    """Use the checkpoint with the lowest validation log loss; runs with early stopping always do."""
    report: Path | None = None
    """HTML report to write: reliability diagram, metrics before and after."""
    json: bool = False
    """Print one JSON document instead of text."""


def calibrate(arguments: Sequence[str]) -> int:
    """Calibrate the probabilities of a trained model."""
    args = parsed(CalibrateConfig, arguments, prog="python -m dlrm_adahessian calibrate")
    require_run(args.run)
    require_html(args.report)
    from dlrm_adahessian.evaluation.calibration.job import CalibratedRun, CalibrationRequest

    found = CalibratedRun.of(
        CalibrationRequest(
            run=args.run,
            data=args.data_path,
            method=args.method,
            part=args.part,
            best=args.best,
            report=args.report,
        )
    )
    write_report(args.report, found.summary, found.predictions, [found.verdict])
    if args.json:
        say(json.dumps(found.asdict(), allow_nan=False))
        return 0
    say(evaluation_table(found.summary))
    kept = f"{found.file.parent.name}/{found.file.name}"
    say(f"\n{found.verdict}\nCalibration written to {kept}: {found.calibration.map}")
    if args.report is not None:
        say(f"Report written to {args.report}")
    return 0
