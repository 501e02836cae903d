"""`calibrate`: fits what turns the probabilities of a run into click rates, and says how much that helps."""

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
    """Fit a calibration of a trained model on rows that it was not trained on, and keep it in the run directory.

    `evaluate` and `export` predict with it where they are asked for calibrated probabilities. Figures before and after are
    on the same rows, each of them calibrated without itself.
    """

    run: Path
    """Run directory of a training job, or a checkpoint in it."""
    data_path: tuple[str, ...] = ()
    """Rows with labels, as of evaluate; default the run's validation rows."""
    method: Literal["platt", "isotonic"] = "platt"
    """Logistic regression on the logit, or a monotone step function of it."""
    part: Literal["all", "train", "val", "test"] | None = None
    """Part of prepared rows, or of the raw ones that they were prepared from."""
    best: bool = False
    """Calibrate the checkpoint of the lowest validation log loss; of runs with patience always."""
    report: Path | None = None
    """HTML file to write: reliability diagram and figures before and after."""
    json: bool = False
    """Print one JSON document instead of text."""


def calibrate(arguments: Sequence[str]) -> int:
    """Fit calibrated probabilities for a trained model."""
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
    say(f"\n{found.verdict}\ncalibration written to {kept}: {found.calibration.map}")
    if args.report is not None:
        say(f"report written to {args.report}")
    return 0
