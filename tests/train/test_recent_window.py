"""The window of recent samples against the metrics of those samples."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrm_adahessian.metrics.binary import binary_metrics
from dlrm_adahessian.train.run_log import RecentWindow


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 20))
def test_window_equals_the_last_rows(sizes, capacity) -> None:
    rng = np.random.default_rng(len(sizes))
    window = RecentWindow(capacity)
    all_labels, all_probabilities = np.zeros(0, np.int8), np.zeros(0, np.float32)
    for size in sizes:
        labels = rng.integers(0, 2, size, dtype=np.int8)
        probability = rng.random(size, dtype=np.float32)
        window.add(labels, probability)
        all_labels = np.concatenate([all_labels, labels])
        all_probabilities = np.concatenate([all_probabilities, probability])
    expected = binary_metrics(all_labels[-capacity:], all_probabilities[-capacity:])
    found = window.metrics()
    assert len(window) == expected.rows
    assert found.auc == expected.auc
    assert (found.logloss or 0) == pytest.approx(expected.logloss or 0, rel=1e-13)


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 20))
def test_a_window_taken_up_goes_on_bit_for_bit(sizes, capacity) -> None:
    rng = np.random.default_rng(len(sizes))
    window, resumed = RecentWindow(capacity), RecentWindow(capacity)
    for size in sizes:
        labels = rng.integers(0, 2, size, dtype=np.int8)
        probability = rng.choice(np.array([0, 1e-45, 0.1, 0.7, 1], np.float32), size)
        for each in (window, resumed):
            each.add(labels, probability)
        state = json.loads(json.dumps(resumed.state()))
        resumed = RecentWindow(capacity)
        resumed.load(state)
        assert resumed.metrics() == window.metrics()


def test_window_refuses_what_metrics_refuse() -> None:
    with pytest.raises(ValueError, match="capacity must be at least 1 row, got 0"):
        RecentWindow(0)
    with pytest.raises(ValueError, match="probability must lie"):
        RecentWindow(4).add(np.array([1], np.int8), np.array([np.nan], np.float32))
