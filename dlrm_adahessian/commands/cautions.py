"""Warn of results that are easy to misread: models without skill, and speeds measured on a busy machine."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlrm_adahessian.metrics.binary import BinaryMetrics

_WAITED = 0.1  # share of the time; far above that of a run that has the machine to itself


def useless(found: Mapping[str, "BinaryMetrics"], remedy: str) -> str | None:
    """Name the models that are no better than the constant prediction.

    Args:
        found: metrics by name of the model.
        remedy: what to try, as a sentence.

    Returns:
        A warning, or None if all models are better.
    """
    names = [
        f"{name} (AUC {_shown(metrics.auc)}, normalized entropy {_shown(metrics.normalized_entropy)})"
        for name, metrics in found.items()
        if not metrics.beats_base_rate
    ]
    if not names:
        return None
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} no better than the constant prediction. {remedy}"


def slowed(waited: Mapping[str, float | None]) -> str | None:
    """Name the runs that other programs slowed down.

    Args:
        waited: share of its time that each run waited for a CPU core, by name; None if unknown.

    Returns:
        A warning, or None if no run waited long.
    """
    names = [
        f"{name} spent {share:.0%} of its time waiting"
        for name, share in waited.items()
        if share is not None and share >= _WAITED
    ]
    if not names:
        return None
    return (
        "Speeds are unreliable, because other programs or threads used the CPU cores: "
        f"{', '.join(names)}. On a shared machine, set OMP_WAIT_POLICY=passive or a lower OMP_NUM_THREADS."
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
