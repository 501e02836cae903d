import pytest
import torch

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runtime.device import find_device


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="needs a GPU that torch can use, found none"):
        find_device("cuda")
