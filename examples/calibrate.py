"""Calibrate a finished run on new samples, and check its probabilities on later samples.

python examples/calibrate.py RUN SAMPLES LATER_SAMPLES
"""

import sys
from pathlib import Path

from dlrm_adahessian.evaluation.calibration.job import CalibratedRun, CalibrationRequest
from dlrm_adahessian.evaluation.job import evaluate
from dlrm_adahessian.evaluation.request import EvaluationRequest


def main(run: str, samples: str, later: str) -> None:
    """Write the calibration into the run directory, and print figures of the later samples without and with it."""
    print(CalibratedRun.of(CalibrationRequest(run=Path(run), data=[samples])).verdict)
    for calibrated in (False, True):
        request = EvaluationRequest(runs=[Path(run)], data=[later], calibrated=calibrated)
        metrics = evaluate(request).summary.first.measured.metrics
        predicted = f"predicted over actual clicks {metrics.calibration:.4f}"
        print(f"{'calibrated' if calibrated else 'before':<12}log loss {metrics.logloss:.4f}, {predicted}")


if __name__ == "__main__":
    main(*sys.argv[1:])
