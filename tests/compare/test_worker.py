"""A worker refuses to train before it is begun; what it does after is seen in `test_study`."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dlrm_adahessian.compare import worker
from dlrm_adahessian.config import from_dict
from dlrm_adahessian.data.schema import DenseColumn, LabelColumn, Schema


def test_a_worker_is_begun_before_its_first_run():
    with pytest.raises(RuntimeError, match="must be begun before its first run; call begin"):
        worker.train({}, Path(), select="val", diagnose=False)


def test_there_is_no_curvature_by_token_without_tokens():
    schema = Schema(label=LabelColumn(column="y"), dense=(DenseColumn(column="x"),))
    data = SimpleNamespace(preprocessing=SimpleNamespace(schema=schema))
    config = from_dict({})
    assert worker.curvature_by_band(config, data, None, torch.device("cpu")) is None  # pyright: ignore
