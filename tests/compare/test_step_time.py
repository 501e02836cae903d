"""Test the step time: its clock starts after the warm-up, and curvature is as frequent as in training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dlrm_adahessian.compare import step_time
from dlrm_adahessian.config import from_dict

DATA = SimpleNamespace(preprocessing=SimpleNamespace(schema=None, num_rows=(3,)), values_per_bag=None)


@pytest.fixture
def steps(monkeypatch):
    """Replace training with a clock: 1 s per warm-up step, then 9 ms per step with curvature and 1 ms per other step."""
    passed, slow, trained = [0.0], [0], []

    def train_step(*_, curvature_samples, lr_scale, rows_lr_scale, **__):
        trained.append((lr_scale, rows_lr_scale))
        passed[0] += 1.0 if len(trained) <= slow[0] else 9e-3 if curvature_samples else 1e-3
        return SimpleNamespace(probability=np.zeros(4))

    def loader(batches):
        made = [SimpleNamespace(share=SimpleNamespace(samples=4))] * batches
        return SimpleNamespace(batches_per_epoch=batches, batches=lambda _: iter(made))

    def timed(batches, **settings):
        slow[0] = min(64, batches // 5)
        monkeypatch.setattr(step_time, "training_loader", lambda *_, **__: loader(batches))
        ms = step_time.step_ms(from_dict({"curvature_every": 8, **settings}), DATA, torch.device("cpu"))
        return ms, trained

    monkeypatch.setattr(step_time.time, "perf_counter", lambda: passed[0])
    monkeypatch.setattr(step_time, "train_step", train_step)
    monkeypatch.setattr(step_time, "TrainState", lambda *_, **__: None)
    return timed


@pytest.mark.parametrize(
    ("batches", "trained"), [(1_000, 64 + 320), (384, 384), (100, 100), (40, 40), (1, 1)]
)
def test_it_is_the_mean_of_steps_with_and_without_curvature_after_the_warm_up(batches, trained, steps):
    ms, seen = steps(batches)
    assert len(seen) == trained
    assert ms == pytest.approx(2.0 if batches > 1 else 9.0)  # seven steps of 1 ms for each step of 9 ms


def test_rates_are_those_of_the_whole_run(steps):
    _, seen = steps(1_000, epochs=2, optim={"schedule": {"warmup": 0.5}})
    assert seen == pytest.approx(np.repeat(np.arange(1, 385)[:, None] / 1_000, 2, axis=1))
