"""Break down differences and curvature by the frequency of tokens.

A band is a decade of the number of training samples with the token. Rare and unseen tokens of a feature share one embedding
row, and their counts are added.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.metrics.binary import log_losses
from dlrm_adahessian.statistics.components import Estimate
from dlrm_adahessian.statistics.crossed import crossed_mean

_EDGES = (100, 1_000, 10_000, 100_000, 1_000_000)
BANDS = ("below 100", "100 to 1 k", "1 k to 10 k", "10 k to 100 k", "100 k to 1 M", "1 M and more")
"""Names of the bands, rarest first."""

Bands = npt.NDArray[np.int8]


def band_of_ids(data: PreparedData) -> list[Bands]:
    """Return the band of each embedding row, (R,) int8 for each table with single tokens."""
    train = data.split.train
    heights = data.preprocessing.num_rows[: len(data.preprocessing.schema.tokens)]
    return [
        np.digitize(
            np.bincount(data.features.ids[train.start : train.stop, feature], minlength=rows), _EDGES
        ).astype(np.int8)
        for feature, rows in enumerate(heights)
    ]


def bands_of_samples(
    data: PreparedData, band_of_id: Sequence[Bands], samples: npt.NDArray[np.int64]
) -> Bands:
    """Return the band of each token of the given samples, (N, T) int8 for N samples and T tables."""
    ids = data.features.ids[samples]
    return np.stack([band[ids[:, feature]] for feature, band in enumerate(band_of_id)], axis=1)


def logloss_by_band(
    bands: Bands,
    labels: npt.NDArray[np.int8],
    ours: Iterable[npt.NDArray[np.float32]],
    theirs: Iterable[npt.NDArray[np.float32]],
    weights: npt.NDArray[np.float32] | None = None,
) -> list[Estimate | None]:
    """Return the difference in log loss in each band. A sample counts once for each of its tokens in the band.

    Args:
        bands: (N, T) bands of the tokens.
        labels: (N,) 0 or 1.
        ours: (N,) predictions of each seed.
        theirs: (N,) predictions of the other entrant, for the same seeds.
        weights: (N,) sample weights; None for 1.

    Returns:
        Estimate over samples and seeds for each band; None for a band without tokens.
    """
    differences = [log_losses(labels, a) - log_losses(labels, b) for a, b in zip(ours, theirs, strict=True)]
    found: list[Estimate | None] = []
    for band in range(len(BANDS)):
        tokens = np.count_nonzero(bands == band, axis=1)
        if weights is not None:
            tokens = tokens * weights.astype(np.float64)
        weight = tokens / tokens.mean() if tokens.any() else None
        found.append(None if weight is None else crossed_mean(weight * d for d in differences))
    return found


def mean_by_table_and_band(bands: Bands, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the mean value of the tokens of each table and band.

    Args:
        bands: (N, T) bands of the tokens.
        values: (N,) value per sample, or (N, T) value per token.

    Returns:
        (T, bands) float64; NaN for a band without tokens.
    """
    per_token = np.broadcast_to(values if values.ndim == 2 else values[:, None], bands.shape)
    means = np.full((bands.shape[1], len(BANDS)), np.nan)
    for feature in range(bands.shape[1]):
        counts = np.bincount(bands[:, feature], minlength=len(BANDS))
        sums = np.bincount(bands[:, feature], weights=per_token[:, feature], minlength=len(BANDS))
        np.divide(sums, counts, out=means[feature], where=counts > 0)
    return means
