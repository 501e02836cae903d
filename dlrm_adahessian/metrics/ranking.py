"""Samples in the order of their predictions: the AUC, exactly, and its error over the draw of samples.

The bits of a probability in [0, 1] order like an unsigned integer and leave the top bit free, so probability and
label pack into one integer of the same width: one plain sort, no permutation. Labels and probabilities here are those
that `check_predictions` passes.

The error is that of DeLong, DeLong, Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver Operating
Characteristic Curves" (1988), in the O(N log N) form of Sun and Xu (2014), except that the placement of every sample is
counted in one sort per model, where they rank three times. Of two models take the differences of their placements: that
avoids the cancellation of var(a) + var(b) - 2 cov(a, b).

With weights, a sample counts as so many in every placement and mean; the error is that of weighted means (means.py).
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.metrics.means import mean_with_error

Labels = npt.NDArray[np.int8]
Probabilities = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint32 | np.uint64]

_BLOCK = 1 << 20  # samples that are counted at a time


def sorted_keys(labels: Labels, probability: Probabilities) -> Keys:
    """Return the samples as sorted integers: bits of the probability shifted left by one, label in bit 0."""
    bits = np.uint32 if probability.dtype == np.float32 else np.uint64
    keys: Keys = probability.copy().view(bits)
    keys <<= 1  # drops the sign, so that -0.0 ties with 0.0
    keys |= labels != 0
    keys.sort()
    return keys


def cut_between_ties(keys: Keys, cuts: Iterable[int]) -> Iterator[Keys]:
    """Cut sorted keys at rising `cuts`, each moved up so that it splits no tied probability."""
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
        Labels 0 and labels 1 per distinct score, (G,) int64 each, by rising score.
    """
    starts = tie_starts(scores)
    positives = np.add.reduceat(labels, starts, dtype=np.int64)
    return np.diff(starts, append=len(scores)) - positives, positives


def tie_weights(
    scores: npt.NDArray[np.generic], labels: npt.NDArray[np.generic], weights: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Add up the weights (N,) of the samples of each distinct score; else as `tie_counts`, (G,) float64 each."""
    starts, clicked = tie_starts(scores), labels != 0
    others, clicks = (np.add.reduceat(np.where(of, weights, 0.0), starts) for of in (~clicked, clicked))
    return others, clicks


def tie_starts(scores: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Return the place of the first sample of each distinct score, (G,), of sorted scores (N,), N at least 1."""
    return np.concatenate(([0], np.flatnonzero(scores[1:] != scores[:-1]) + 1))


def rarer_class(labels: Labels) -> int:
    """Return how many samples the smaller class has."""
    clicks = int(np.count_nonzero(labels))
    return min(clicks, len(labels) - clicks)


def area_under_curve(
    labels: Labels, probability: Probabilities, weights: npt.NDArray[np.float64] | None = None
) -> float:
    """Return P(click outranks non-click) + P(tie) / 2; exact counts, one rounding at the end.

    Args:
        labels: (N,) 0 or 1, both among them.
        probability: (N,) float32 or float64.
        weights: (N,) above 0, added up in float64; None counts.

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
    """Return what `mean_over_classes` says of `placements`; without weights from counts of ties, with no permutation."""
    if weights is not None:
        return mean_over_classes(labels, placements(labels, probability, weights), weights)
    clicks = int(np.count_nonzero(labels))
    others = len(labels) - clicks
    keys = sorted_keys(labels, probability)
    auc = 0.0
    squares = np.zeros(2)
    for exact in (False, True):  # the second time around the mean, so that small variances do not cancel
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
    """Return each sample's share of the other class that it ranks correctly against, ties half.

    Args:
        labels: (N,) 0 or 1, both among them.
        probability: (N,) float32 or float64.
        weights: (N,) above 0, that samples have in these shares; None for all alike.

    Returns:
        (N,) float64 in [0, 1]: for a click the share of non-clicks below it, for a non-click the share of
        clicks above it. Either class averages to the AUC.
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
    """Return the mean of placements and its standard error: the classes' variances over counts, added."""
    classes = labels != 0, labels == 0
    if weights is not None:
        (mean, error), (_, other_error) = (mean_with_error(values[of], weights[of]) for of in classes)
        return mean, math.hypot(error, other_error)
    of_clicks, of_others = (values[of] for of in classes)
    variance = of_clicks.var(ddof=1) / len(of_clicks) + of_others.var(ddof=1) / len(of_others)
    return float(of_clicks.mean()), math.sqrt(variance)
