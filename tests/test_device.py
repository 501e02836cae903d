from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runtime.device import find_device
from dlrm_adahessian.train import run_cache


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="needs a GPU that torch can use, found none"):
        find_device("cuda")


def test_a_run_on_another_kind_of_device_is_not_reused():
    data, root = SimpleNamespace(fingerprint="rows"), Path("runs")
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    on_cpu = run_cache.run_path(RunConfig(), data, root, cpu)
    assert on_cpu == run_cache.run_path(RunConfig(), data, root, cpu)
    assert on_cpu != run_cache.run_path(RunConfig(), data, root, cuda)
