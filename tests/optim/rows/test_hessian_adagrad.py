import pytest
import torch

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.optim.rows import HessianAdagradConfig, RowAdagradConfig, RowwiseAdagradConfig
from tests.optim.rows.problem import SAMPLES, all_hits, as_read, hits_of, start

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize(
    ("rowwise", "plain"), [(False, RowAdagradConfig(lr=0.1)), (True, RowwiseAdagradConfig(lr=0.1))]
)
def test_hessian_adagrad_without_curvature_is_adagrad(rowwise, plain):
    ours, theirs = HessianAdagradConfig(lr=0.1, rowwise=rowwise).build(), plain.build()
    a, b = start(), start()
    a_state, b_state = ours.new_state(a), theirs.new_state(b)
    for hits in all_hits():
        flat = hits_of(hits.rows, hits.grad, torch.zeros_like(hits.grad))
        ours.update_(a, a_state, as_read(ours.cfg, flat), lr_scale=1, samples=SAMPLES)
        theirs.update_(b, b_state, hits, lr_scale=1, samples=SAMPLES)
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_an_unguarded_hessian_adagrad_is_refused():
    with pytest.raises(UsageError, match="needs a clip"):
        HessianAdagradConfig(curvature_floor=0.0)
