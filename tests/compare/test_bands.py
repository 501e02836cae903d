"""Test bands of token frequency against a loop over tokens."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from dlrm_adahessian.compare.bands import BANDS, logloss_by_band, mean_by_table_and_band

pytestmark = pytest.mark.oracle


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    bands = rng.integers(0, 3, (40, 26)).astype(np.int8)
    bands[:, 5] = 4
    labels = rng.integers(0, 2, 40).astype(np.int8)
    ours, theirs = rng.uniform(0.1, 0.9, (2, 2, 40)).astype(np.float32)
    return bands, labels, ours, theirs


def test_a_row_counts_once_for_each_of_its_tokens(rows):
    bands, labels, ours, theirs = rows
    found = logloss_by_band(bands, labels, ours, theirs)
    for band in range(len(BANDS)):
        members = [row for row in range(40) for feature in range(26) if bands[row, feature] == band]
        if not members:
            assert found[band] is None
            continue
        expected = [
            log_loss(labels[members], a[members]) - log_loss(labels[members], b[members])
            for a, b in zip(ours, theirs, strict=True)
        ]
        assert found[band].estimate == pytest.approx(np.mean(expected), abs=1e-7)


def test_means_by_table_and_band(rows):
    bands, *_ = rows
    values = np.random.default_rng(1).normal(size=bands.shape)
    found = mean_by_table_and_band(bands, values)
    for feature in range(26):
        for band in range(len(BANDS)):
            cell = values[bands[:, feature] == band, feature]
            expected = cell.mean() if len(cell) else np.nan
            np.testing.assert_allclose(found[feature, band], expected, atol=1e-12)


def test_whole_weights_repeat_the_rows(rows):
    bands, labels, ours, theirs = rows
    weights = np.random.default_rng(2).integers(0, 4, 40)
    found = logloss_by_band(bands, labels, ours, theirs, weights.astype(np.float32))
    repeated = (np.repeat(part, weights, axis=0) for part in (bands, labels))
    expected = logloss_by_band(*repeated, *(np.repeat(side, weights, axis=1) for side in (ours, theirs)))
    for ours_, theirs_ in zip(found, expected, strict=True):
        assert (ours_ is None) == (theirs_ is None)
        assert ours_ is None or ours_.estimate == pytest.approx(theirs_.estimate, rel=1e-9)
