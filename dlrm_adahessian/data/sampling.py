"""Logs that lack rows without a click, and what they say of the population: all rows, before any were left out.

A log that keeps every click, and of the other rows a share r (`negative_rate` of the schema), has 1 / r times the odds of
a click: p / (1 - p) = q / (1 - q) / r, with p the probability in the log and q that in the population. So a logit of the
log plus log r is one of the population, and

    q = p / (p + (1 - p) / r)

(He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", 2014, section 6.3). A row without a click stands
for 1 / r rows of the population, so sums with these weights estimate those over the population without bias. Training
knows nothing of this: it fits the log as it is.
"""

import math

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.schema import LabelColumn


def logit_shift(label: LabelColumn) -> float:
    """Return what a logit of the population is above one of the log: log r, at most 0."""
    return math.log(label.negative_rate)


def population_probability(
    label: LabelColumn, probability: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the probabilities (N,) float32 in the population of probabilities (N,) in the log."""
    if not label.sampled:
        return probability
    p = probability.astype(np.float64)
    return (p / (p + (1 - p) / label.negative_rate)).astype(np.float32)


def population_weights(
    label: LabelColumn, labels: npt.NDArray[np.int8], weights: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32] | None:
    """Return as how many samples of the population each row of a log counts.

    Args:
        label: says which share of the rows without a click the log keeps.
        labels: (N,) 0, 1, or another number where there is none.
        weights: (N,) as how many samples of the log each counts; None for 1 each.

    Returns:
        (N,) `weights`, of label 0 divided by the share; None for 1 each.
    """
    if not label.sampled:
        return weights
    stands_for = np.where(labels == 0, 1 / label.negative_rate, 1).astype(np.float32)
    return stands_for if weights is None else stands_for * weights


def log_weights(
    label: LabelColumn, labels: npt.NDArray[np.int8], weights: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32] | None:
    """Return as how many samples of the log each row counts, (N,); what `population_weights` returned is undone."""
    if not label.sampled or weights is None:
        return weights
    return np.where(labels == 0, label.negative_rate * weights, weights).astype(np.float32)
