"""Compute the exact AUC and its standard error from samples sorted by prediction.

The bits of a probability in [0, 1] sort like an unsigned integer and leave the top bit free. Probability and label
therefore pack into one integer of the same width, which needs one plain sort and no permutation. The functions here assume
labels and probabilities that pass `check_predictions`.

The standard error follows DeLong, DeLong, Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver
Operating Characteristic Curves" (1988), in the O(N log N) form of Sun and Xu (2014). They rank three times; here one sort
per model counts the placements of all samples. To compare two models, take the differences of their placements, which
avoids the cancellation in var(a) + var(b) - 2 cov(a, b).

With weights, a sample of weight w counts as w samples in placements and means. The error is that of weighted means
(means.py).
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.means import mean_with_error

Labels = npt.NDArray[np.int8]
Probabilities = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint32 | np.uint64]

_BLOCK = 1 << 20  # samples counted at a time


def sorted_keys(labels: Labels, probability: Probabilities) -> Keys:
    """Return the samples as sorted integers, with the probability's bits shifted left by one and the label in bit 0."""
    bits = np.uint32 if probability.dtype == np.float32 else np.uint64
    keys: Keys = probability.copy().view(bits)
    keys <<= 1  # drops the sign, so that -0.0 ties with 0.0
    keys |= labels != 0
    keys.sort()
    return keys


def cut_between_ties(keys: Keys, cuts: Iterable[int]) -> Iterator[Keys]:
    """Split sorted keys at ascending `cuts`, moving each cut up past ties."""
    start = 0
    for cut in cuts:
        end = min(cut, len(keys))
        if end > start:
            last = keys[end - 1] | 1
            stop = int(np.searchsorted(keys, last, side="right"))
            yield keys[start:stop]
            start = stop


def tie_counts(
    scores: npt.NDArray[np.generic], labels: npt.NDArray[np.generic]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count the samples of each distinct score.

    Args:
        scores: (N,) sorted, N at least 1.
        labels: (N,) 0 or 1, in the order of `scores`.

    Returns:
        Number of labels 0 and of labels 1 per distinct score, (G,) int64 each, by ascending score.
    """
    starts = tie_starts(scores)
    positives = np.add.reduceat(labels, starts, dtype=np.int64)
    return np.diff(starts, append=len(scores)) - positives, positives


def tie_weights(
    scores: npt.NDArray[np.generic], labels: npt.NDArray[np.generic], weights: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sum the weights (N,) of the samples of each distinct score; like `tie_counts`, but (G,) float64 each."""
    starts, clicked = tie_starts(scores), labels != 0
    others, clicks = (np.add.reduceat(np.where(of, weights, 0.0), starts) for of in (~clicked, clicked))
    return others, clicks


def tie_starts(scores: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Return the index of the first sample of each distinct score, (G,), in sorted scores (N,), N at least 1."""
    return np.concatenate(([0], np.flatnonzero(scores[1:] != scores[:-1]) + 1))


def rarer_class(labels: Labels) -> int:
    """Return the number of samples of the smaller class."""
    clicks = int(np.count_nonzero(labels))
    return min(clicks, len(labels) - clicks)


def area_under_curve(
    labels: Labels, probability: Probabilities, weights: npt.NDArray[np.float64] | None = None
) -> float:
    """Return P(click ranked above non-click) + P(tie) / 2, from exact counts and rounded once.

    Args:
        labels: (N,) 0 and 1, both present.
        probability: (N,) float32 or float64.
        weights: (N,) above 0, summed in float64; None counts samples.

    Returns:
        The AUC.
    """
    if weights is not None:
        clicked = labels != 0
        return float(np.average(placements(labels, probability, weights)[clicked], weights=weights[clicked]))
    twice_wins = 0
    negatives_below = 0
    cuts = range(_BLOCK, len(labels) + _BLOCK, _BLOCK)
    for block in cut_between_ties(sorted_keys(labels, probability), cuts):
        negatives, positives = tie_counts(block >> 1, block & 1)
        below = negatives_below + np.cumsum(negatives) - negatives
        twice_wins += int(positives @ (2 * below + negatives))
        negatives_below += int(negatives.sum())
    return twice_wins / (2 * negatives_below * (len(labels) - negatives_below))


def auc_with_error(
    labels: Labels, probability: Probabilities, weights: npt.NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Return `mean_over_classes` of `placements`. Without weights, compute it from counts of ties without a permutation."""
    if weights is not None:
        return mean_over_classes(labels, placements(labels, probability, weights), weights)
    clicks = int(np.count_nonzero(labels))
    others = len(labels) - clicks
    keys = sorted_keys(labels, probability)
    auc = 0.0
    squares = np.zeros(2)
    for exact in (
        False,
        True,
    ):  # the second pass centers on the mean, to avoid cancellation in small variances
        clicks_below = others_below = 0
        total = 0.0
        for block in cut_between_ties(keys, range(_BLOCK, len(keys) + _BLOCK, _BLOCK)):
            negatives, positives = tie_counts(block >> 1, block & 1)
            beaten = (others_below + np.cumsum(negatives) - 0.5 * negatives) / others
            beaten_by = 1.0 - (clicks_below + np.cumsum(positives) - 0.5 * positives) / clicks
            total += float(positives @ beaten)
            if exact:
                squares += positives @ (beaten - auc) ** 2, negatives @ (beaten_by - auc) ** 2
            clicks_below += int(positives.sum())
            others_below += int(negatives.sum())
        auc = total / clicks
    variance = squares / (clicks - 1, others - 1) / (clicks, others)
    return auc, math.sqrt(variance.sum())


def placements(
    labels: Labels, probability: Probabilities, weights: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.float64]:
    """Return, for each sample, the share of the other class that it is ranked correctly against, ties half.

    Args:
        labels: (N,) 0 and 1, both present.
        probability: (N,) float32 or float64.
        weights: (N,) above 0, weights of the samples in these shares; None for equal weights.

    Returns:
        (N,) float64 in [0, 1]: for a click the share of non-clicks below it, for a non-click the share of
        clicks above it. The mean of either class is the AUC.
    """
    order = np.argsort(probability)
    scores, clicked = probability[order], labels[order] != 0
    if weights is None:
        negatives, positives = tie_counts(scores, clicked)
    else:
        negatives, positives = tie_weights(scores, clicked, weights[order])
    sizes = np.diff(tie_starts(scores), append=len(scores))
    beaten = (np.cumsum(negatives) - 0.5 * negatives) / negatives.sum()
    beaten_by = 1.0 - (np.cumsum(positives) - 0.5 * positives) / positives.sum()
    placed = np.empty(len(labels))
    placed[order] = np.where(clicked, np.repeat(beaten, sizes), np.repeat(beaten_by, sizes))
    return placed


def mean_over_classes(
    labels: Labels, values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Return the mean of placements and its standard error, from the sum of variance / count of both classes."""
    classes = labels != 0, labels == 0
    if weights is not None:
        (mean, error), (_, other_error) = (mean_with_error(values[of], weights[of]) for of in classes)
        return mean, math.hypot(error, other_error)
    of_clicks, of_others = (values[of] for of in classes)
    variance = of_clicks.var(ddof=1) / len(of_clicks) + of_others.var(ddof=1) / len(of_others)
    return float(of_clicks.mean()), math.sqrt(variance)
