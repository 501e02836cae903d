"""Scale the parts of a planted logit to a given difficulty and click rate."""

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
        """Return P(click) (N,) from parts (N, P)."""
        return special.expit(parts @ self.scale + self.intercept).astype(np.float32)


def calibrated(parts: npt.NDArray[np.float32], deviations: Sequence[float], click_rate: float) -> Logit:
    """Fit scales and intercept on samples that are not part of the generated data.

    Args:
        parts: (N, P) parts of these samples, each with nonzero variance.
        deviations: (P,) standard deviation of each part, in logits.
        click_rate: mean probability over these samples.

    Returns:
        The click model. The standard deviation of its logits is the norm of `deviations`.
    """
    scale = np.array(deviations) / parts.std(axis=0, dtype=np.float64)
    # Parts may correlate for some seeds. A common factor gives all seeds the same deviation of the sum.
    scale *= np.linalg.norm(deviations) / (parts @ scale).std()
    logits = parts @ scale
    from scipy import optimize  # takes half a second to import, and is needed only once

    def excess(intercept: float) -> float:
        return float(special.expit(logits + intercept).mean()) - click_rate

    center = float(logits.mean())
    return Logit(scale, float(optimize.brentq(excess, -center - 20, -center + 20)))  # pyright: ignore[reportArgumentType]
