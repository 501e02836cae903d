"""Score rows with a finished run from Python, and look at the rows that the model is surest of.

python examples/score.py RUN ROWS PREDICTIONS.parquet
"""

import sys
from pathlib import Path

import pandas as pd

from dlrm_adahessian.evaluation.job import evaluate
from dlrm_adahessian.evaluation.request import EvaluationRequest


def main(run: str, rows: str, out: str) -> None:
    """Write the predictions, and print how good they are."""
    found = evaluate(EvaluationRequest(runs=[Path(run)], data=[rows], out=Path(out))).summary
    metrics = found.first.measured.metrics
    print(f"{found.samples:,} rows, AUC {metrics.auc:.4f}, log loss {metrics.logloss:.4f}")
    scored = pd.read_parquet(out)
    surest = scored.nlargest(len(scored) // 10, "probability")
    print(
        f"clicks: {scored.label.mean():.3f} of all rows, {surest.label.mean():.3f} of the tenth scored highest"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
