"""Words that reports and terminals share."""

from collections.abc import Mapping
from typing import Any


def judgement(row: Mapping[str, Any]) -> str:
    """Return what is shown of a difference in log loss, `logloss`, by its adjusted p value, `p_adjusted`."""
    if row["p_adjusted"] >= 0.05:
        return "no difference shown"
    return "better" if row["logloss"] < 0 else "worse"


def p_words(value: float) -> str:
    """Return a p value, small ones by their bound."""
    return "below 0.0001" if value < 0.0001 else f"{value:.4f}"
