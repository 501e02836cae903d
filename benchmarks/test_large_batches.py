"""The number of samples to a log loss, against the mean of each window."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import large_batches
from benchmarks.large_batches import samples_until
from dlrm_adahessian.metrics.binary import log_losses
from dlrm_adahessian.train.results import Predicted


@pytest.fixture
def falling() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.linspace(1, 0.2, 500) + rng.normal(0, 0.05, 500)


@pytest.mark.parametrize("target", [2.0, 0.8, 0.5, 0.3, 0.1])
def test_it_is_the_first_window_whose_mean_is_down_to_the_target(falling: np.ndarray, target: float) -> None:
    means = [falling[start : start + 40].mean() for start in range(461)]
    first = next((start for start, mean in enumerate(means) if mean <= target), None)
    assert samples_until(falling, target, 40) == first


def test_fewer_samples_than_a_window_reach_nothing(falling: np.ndarray) -> None:
    assert samples_until(falling, 9.0, 501) is None


def test_a_run_needs_its_first_day_and_two_samples_for_each_that_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(large_batches, "_WINDOW", 80)
    labels = np.zeros(500, np.int8)
    probability = np.linspace(0.6, 0.2, 500).astype(np.float32)
    result = SimpleNamespace(progressive=Predicted(labels, probability, None))
    first = samples_until(log_losses(labels, probability), 0.5, 40)
    assert first is not None
    assert large_batches._needed(SimpleNamespace(result=result), 100, 0.5) == 100 + 2 * first
    assert large_batches._needed(SimpleNamespace(result=None), 100, 0.5) is None
