"""Sentences that keep a reader of the tables from a wrong conclusion; None where there is nothing to say."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlrm_adahessian.metrics.binary import BinaryMetrics

_WAITED = 0.1  # share of the time; a machine that works for one run alone stays far below


def useless(found: Mapping[str, "BinaryMetrics"], remedy: str) -> str | None:
    """Name models whose predictions tell no more than the base rate.

    Args:
        found: their metrics, by name.
        remedy: what to try, in words that follow a semicolon.

    Returns:
        One sentence, or None where all tell more.
    """
    names = [
        f"{name} (AUC {_shown(metrics.auc)}, normalized entropy {_shown(metrics.normalized_entropy)})"
        for name, metrics in found.items()
        if not metrics.beats_base_rate
    ]
    if not names:
        return None
    return f"{' and '.join(names)} {'predicts' if len(names) == 1 else 'predict'} no better than the base rate; {remedy}"


def slowed(waited: Mapping[str, float | None]) -> str | None:
    """Name runs that other programs slowed down.

    Args:
        waited: the share of its time that each run waited for a core, by name; None where it is not known.

    Returns:
        One sentence, or None where no run waited long.
    """
    names = [
        f"{name} waited for one {share:.0%} of its time"
        for name, share in waited.items()
        if share is not None and share >= _WAITED
    ]
    if not names:
        return None
    return (
        f"other programs or threads used the cores, so the speeds say little: {', '.join(names)}; on a shared machine "
        "OMP_WAIT_POLICY=passive or a lower OMP_NUM_THREADS makes training faster"
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
