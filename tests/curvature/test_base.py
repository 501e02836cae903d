import pytest
import torch

from dlrm_adahessian.curvature.base import flat, gradient
from tests.oracles import plain_logits, pooled_of, small_batch, small_config, small_head

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("changes", [{}, {"activation": "gelu"}, {"self_interaction": True}])
def test_head_and_its_gradient_equal_dlrm_written_out(changes):
    head = small_head(**changes)
    dense, tables, hits, labels = small_batch()
    pooled = pooled_of(tables, hits).requires_grad_()
    values = dict(head.named_parameters())
    plain = plain_logits(values, small_config(**changes), dense, pooled)
    torch.testing.assert_close(head(dense, pooled), plain, rtol=1e-12, atol=1e-13)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(plain, labels)
    expected = torch.autograd.grad(loss, [*values.values(), pooled])
    found = gradient(head, dense, pooled, labels)
    torch.testing.assert_close(found.grad, flat(expected[:-1]), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.pooled_grad, expected[-1], rtol=1e-12, atol=1e-15)
