"""Correct for logs with downsampled negatives. The population is all samples before downsampling.

A log that keeps every click and a share r of the other samples (`negative_rate` of the schema) has 1 / r times the odds of
a click: p / (1 - p) = q / (1 - q) / r, where p is the probability in the log and q that in the population. So the logit in
the population is the logit in the log plus log r, and

    q = p / (p + (1 - p) / r)

(He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", 2014, section 6.3). A negative in the log stands
for 1 / r samples of the population, so sums with these weights are unbiased estimates of sums over the population. Training
does not use these weights: it fits the log as it is.
"""

import math

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.schema import LabelColumn


def logit_shift(label: LabelColumn) -> float:
    """Return the logit in the population minus the logit in the log: log r, at most 0."""
    return math.log(label.negative_rate)


def population_probability(
    label: LabelColumn, probability: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Convert probabilities (N,) in the log to probabilities (N,) float32 in the population."""
    if not label.sampled:
        return probability
    p = probability.astype(np.float64)
    return (p / (p + (1 - p) / label.negative_rate)).astype(np.float32)


def population_weights(
    label: LabelColumn, labels: npt.NDArray[np.int8], weights: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32] | None:
    """Return the weight of each sample of a log in the population.

    Args:
        label: label column, with the share of negatives that the log keeps.
        labels: (N,) 0, 1, or another number if missing.
        weights: (N,) weights in the log; None for 1 each.

    Returns:
        (N,) `weights`, divided by the share for negatives; None for 1 each.
    """
    if not label.sampled:
        return weights
    stands_for = np.where(labels == 0, 1 / label.negative_rate, 1).astype(np.float32)
    return stands_for if weights is None else stands_for * weights


def log_weights(
    label: LabelColumn, labels: npt.NDArray[np.int8], weights: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32] | None:
    """Invert `population_weights`: return the weight (N,) of each sample in the log."""
    if not label.sampled or weights is None:
        return weights
    return np.where(labels == 0, label.negative_rate * weights, weights).astype(np.float32)
