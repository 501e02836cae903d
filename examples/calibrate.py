"""Calibrate a finished run on rows that it was not trained on, and see what that does to its probabilities for later rows.

python examples/calibrate.py RUN ROWS LATER_ROWS
"""

import sys
from pathlib import Path

from dlrm_adahessian.evaluation.calibration.job import CalibratedRun, CalibrationRequest
from dlrm_adahessian.evaluation.job import evaluate
from dlrm_adahessian.evaluation.request import EvaluationRequest


def main(run: str, rows: str, later: str) -> None:
    """Write the calibration into the run directory, and print figures of the later rows without and with it."""
    print(CalibratedRun.of(CalibrationRequest(run=Path(run), data=[rows])).verdict)
    for calibrated in (False, True):
        request = EvaluationRequest(runs=[Path(run)], data=[later], calibrated=calibrated)
        metrics = evaluate(request).summary.first.measured.metrics
        predicted = f"predicted over actual clicks {metrics.calibration:.4f}"
        print(f"{'calibrated' if calibrated else 'as it is':<12}log loss {metrics.logloss:.4f}, {predicted}")


if __name__ == "__main__":
    main(*sys.argv[1:])
