"""Test a worker on its own. `test_study` covers its training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dlrm_adahessian.compare import worker
from dlrm_adahessian.config import from_dict
from dlrm_adahessian.data.schema import BagColumn, DenseColumn, LabelColumn, Schema, TokenColumn
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.train.state import TrainState


def test_a_worker_is_begun_before_its_first_run():
    with pytest.raises(RuntimeError, match="Call begin before the first run"):
        worker.train({}, Path(), select="val", diagnose=False, lease=60)


def test_memory_is_planned_for_the_bags_of_the_samples(monkeypatch: pytest.MonkeyPatch):
    schema = Schema(
        label=LabelColumn(column="y"), tokens=(TokenColumn(column="t"),), bags=(BagColumn(column="b"),)
    )
    data = SimpleNamespace(
        preprocessing=SimpleNamespace(schema=schema, num_rows=(3, 4)),
        values_per_bag=(1.0, 2.5),
        fingerprint="rows",
    )
    planned = []

    class Recorded(TrainState):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            planned.append(self.lookup.plan)

    monkeypatch.setattr(worker, "TrainState", Recorded)
    monkeypatch.setattr(worker, "load_newest_good", lambda *_: None)
    config, cpu = from_dict({}), torch.device("cpu")
    with init_process_group():
        assert worker.curvature_by_band(config, data, SimpleNamespace(checkpoints=None), cpu) is None  # pyright: ignore
        trained = TrainState(config, schema, (3, 4), cpu, values_per_bag=(1.0, 2.5))
    assert planned == [trained.lookup.plan]


def test_there_is_no_curvature_by_token_without_tokens():
    schema = Schema(label=LabelColumn(column="y"), dense=(DenseColumn(column="x"),))
    data = SimpleNamespace(preprocessing=SimpleNamespace(schema=schema))
    config = from_dict({})
    assert worker.curvature_by_band(config, data, None, torch.device("cpu")) is None  # pyright: ignore
