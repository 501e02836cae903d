"""What a comparison says, in sentences."""

from collections.abc import Mapping
from typing import Any


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each optimizer after the first, of its difference to the first.

    Args:
        summary: what summary.json holds.

    Returns:
        Plain sentences.
    """
    names = list(summary["optimizers"])
    sentences: list[str] = []
    for name in names[1:]:
        found = [
            row for row in summary["differences"] if row["optimizer"] == name and row["against"] == names[0]
        ]
        if not found:
            sentences.append(f"{name} cannot be compared with {names[0]}: no seed finished with both.")
        sentences.extend(_sentence(row) for row in found)
    return sentences


def _sentence(row: Mapping[str, Any]) -> str:
    low, high = row["logloss_ci95"]
    what = f"log loss {row['logloss']:+.5f} [{low:+.5f}, {high:+.5f}]"
    if row["auc"] is not None:
        what += f", AUC {row['auc']:+.5f} [{row['auc_ci95'][0]:+.5f}, {row['auc_ci95'][1]:+.5f}]"
    where = f"on {row['row_count']:,} {row['rows']} rows and {row['seeds']} {'seed' if row['seeds'] == 1 else 'seeds'}"
    if row["p_adjusted"] < 0.05:
        better = "a better" if row["logloss"] < 0 else "a worse"
        return (
            f"{row['optimizer']} trains {better} model than {row['against']} {where}: {what}; "
            f"adjusted p {_p(row['p_adjusted'])}."
        )
    return (
        f"No difference is shown between {row['optimizer']} and {row['against']} {where}: {what}; adjusted p "
        f"{_p(row['p_adjusted'])}. A difference of {row['minimum_detectable_logloss']:.5f} in log loss would have been "
        "found four times of five."
    )


def _p(value: float) -> str:
    return "below 0.0001" if value < 0.0001 else f"{value:.4f}"
