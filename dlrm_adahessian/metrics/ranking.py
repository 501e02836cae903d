"""Rows in the order of their predictions, with their labels: one plain sort, no permutation.

The bits of a probability in [0, 1] order like an unsigned integer and leave the top bit free, so probability and
label pack into one integer of the same width. Labels and probabilities here are those that `check_predictions` passes.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int8]
Probabilities = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint32 | np.uint64]


def sorted_keys(labels: Labels, probability: Probabilities) -> Keys:
    """Return the rows as sorted integers: bits of the probability shifted left by one, label in bit 0."""
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
    """Count the rows of each distinct score.

    Args:
        scores: (N,) sorted, N at least 1.
        labels: (N,) 0 or 1, in the order of `scores`.

    Returns:
        Labels 0 and labels 1 per distinct score, (G,) int64 each, by rising score.
    """
    starts = np.concatenate(([0], np.flatnonzero(scores[1:] != scores[:-1]) + 1))
    positives = np.add.reduceat(labels, starts, dtype=np.int64)
    return np.diff(starts, append=len(scores)) - positives, positives
