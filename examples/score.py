"""Score samples with a finished run from Python, and look at those with the highest predictions.

python examples/score.py RUN SAMPLES PREDICTIONS.parquet
"""

import sys
from pathlib import Path

import pandas as pd

from dlrm_adahessian.evaluation.job import evaluate
from dlrm_adahessian.evaluation.request import EvaluationRequest


def main(run: str, samples: str, out: str) -> None:
    """Write the predictions, and print how good they are."""
    found = evaluate(EvaluationRequest(runs=[Path(run)], data=[samples], out=Path(out))).summary
    metrics = found.first.measured.metrics
    print(f"{found.samples:,} samples, AUC {metrics.auc:.4f}, log loss {metrics.logloss:.4f}")
    scored = pd.read_parquet(out)
    highest = scored.nlargest(len(scored) // 10, "probability")
    print(
        f"click rate: {scored.label.mean():.3f} of all samples, {highest.label.mean():.3f} of the highest tenth"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
