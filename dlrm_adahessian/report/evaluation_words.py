"""What an evaluation says, in sentences."""

from collections.abc import Mapping
from typing import Any

from dlrm_adahessian.report.words import judgement


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence on each model: how good the first one is, and what is shown of each later one against it.

    Args:
        summary: of `evaluation.job.evaluate`, with labelled rows.

    Returns:
        Plain sentences.
    """
    first = summary["models"][0]
    return [_of_one(first, summary["labelled"]), *(_of_two(row) for row in summary["differences"])]


def _of_one(model: Mapping[str, Any], rows: int) -> str:
    entropy, calibration = model["normalized_entropy"], model["calibration"]
    if entropy is None or calibration is None:
        return f"{model['name']}: log loss {model['logloss']:.5f} on {rows:,} rows of one class only."
    known = f"{100 * abs(1 - entropy):.1f}% {'less' if entropy <= 1 else 'more'} log loss than the base rate"
    low, high = model["calibration_ci95"]
    if low <= 1 <= high:
        level = "the click rate as a whole is met within the chance of the rows"
    else:
        way = "more" if calibration > 1 else "fewer"
        level = f"it predicts {100 * abs(calibration - 1):.1f}% {way} clicks than there were"
    return f"{model['name']}: {known} on {rows:,} rows, AUC {model['auc']:.4f}; {level}."


def _of_two(row: Mapping[str, Any]) -> str:
    pair = f"{row['model']} against {row['against']}"
    if row["logloss"] is None:
        return f"{pair}: too few rows to say."
    low, high = row["logloss_ci95"]
    return f"{pair}: {judgement(row)} (log loss {row['logloss']:+.5f} [{low:+.5f}, {high:+.5f}])."
