import pytest
import torch

from dlrm_adahessian.precision import matrix_products


def test_precision_holds_within_the_block_only():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), matrix_products("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
        raise KeyError
    assert torch.get_float32_matmul_precision() == before
