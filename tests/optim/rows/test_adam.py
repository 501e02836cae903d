import numpy as np
import pytest
import torch

from dlrm_adahessian.optim.rows import RowAdamConfig
from tests.optim.rows.problem import SAMPLES, STEPS, WIDTH, hits_of, start

pytestmark = pytest.mark.oracle


def test_lazy_adam_is_sparse_adam_on_rows_touched_at_every_step():
    rng = np.random.default_rng(5)
    # SparseAdam adds eps before it corrects the second moment. Without eps, the two agree.
    rule, w = RowAdamConfig(lr=0.1, eps=0.0).build(), start()
    state, rows = rule.new_state(w), torch.tensor([0, 3, 4, 8])
    parameter = torch.nn.Parameter(w.clone())
    theirs = torch.optim.SparseAdam([parameter], lr=0.05, eps=1e-300)
    for _ in range(STEPS):
        grad = torch.from_numpy(rng.normal(size=(len(rows), WIDTH)))
        rule.update_(w, state, hits_of(rows, grad), lr_scale=0.5, samples=SAMPLES)
        parameter.grad = torch.sparse_coo_tensor(
            rows.unsqueeze(0), grad, w.shape, is_coalesced=True, check_invariants=True
        )
        theirs.step()
    torch.testing.assert_close(w, parameter.detach(), rtol=1e-12, atol=1e-12)


def test_lazy_adam_moves_a_row_by_lr_whenever_it_is_first_seen():
    rule, w = RowAdamConfig(lr=0.1, eps=0.0).build(), start()
    state, before = rule.new_state(w), start()
    for _ in range(15):
        rule.update_(w, state, hits_of(torch.tensor([2]), torch.ones_like(w[:1])), lr_scale=1, samples=1)
    late = hits_of(torch.tensor([7]), torch.full_like(w[:1], -0.3))
    rule.update_(w, state, late, lr_scale=1, samples=1)
    torch.testing.assert_close(w[7], before[7] + 0.1, rtol=1e-13, atol=1e-13)
    assert state["touches"][[2, 7]].tolist() == [15, 1]
