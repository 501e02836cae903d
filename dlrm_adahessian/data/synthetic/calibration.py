"""From parts of a planted logit to a click probability, as hard and as frequent as asked for."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special


class Logit(NamedTuple):
    """A click model over P parts: logit = parts @ scale + intercept."""

    scale: npt.NDArray[np.float64]
    intercept: float

    def probability(self, parts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return P(click) (N,) of parts (N, P)."""
        return special.expit(parts @ self.scale + self.intercept).astype(np.float32)


def calibrated(parts: npt.NDArray[np.float32], deviations: Sequence[float], click_rate: float) -> Logit:
    """Set scales and intercept on rows that are never emitted.

    Args:
        parts: (N, P) of those rows, each with some variance.
        deviations: (P,) standard deviation of each part, in logits.
        click_rate: mean probability over these rows.

    Returns:
        The click model; its logits deviate by the norm of `deviations`.
    """
    scale = np.array(deviations) / parts.std(axis=0, dtype=np.float64)
    # Parts correlate by chance of the seed: a common factor gives all seeds the same deviation of the sum.
    scale *= np.linalg.norm(deviations) / (parts @ scale).std()
    logits = parts @ scale
    from scipy import optimize  # half a second, for rows that are made once

    def excess(intercept: float) -> float:
        return float(special.expit(logits + intercept).mean()) - click_rate

    centre = float(logits.mean())
    return Logit(scale, float(optimize.brentq(excess, -centre - 20, -centre + 20)))  # pyright: ignore[reportArgumentType]
