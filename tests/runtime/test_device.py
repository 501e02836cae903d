"""Choice of the device, and precision of matrix products."""

import pytest
import torch

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runtime.device import find_device, matrix_products


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="No GPU found that torch can use"):
        find_device("cuda")


@pytest.mark.parametrize(("precision", "name"), [("fp32", "highest"), ("tf32", "high"), ("bf16", "medium")])
def test_precision_holds_within_the_block_only(precision, name):
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), matrix_products(precision):
        assert torch.get_float32_matmul_precision() == name
        raise KeyError
    assert torch.get_float32_matmul_precision() == before
