import pytest
import torch

from dlrm_adahessian.runtime.precision import matrix_products


@pytest.mark.parametrize(("precision", "name"), [("fp32", "highest"), ("tf32", "high"), ("bf16", "medium")])
def test_precision_holds_within_the_block_only(precision, name):
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), matrix_products(precision):
        assert torch.get_float32_matmul_precision() == name
        raise KeyError
    assert torch.get_float32_matmul_precision() == before
