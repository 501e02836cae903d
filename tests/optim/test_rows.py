import numpy as np
import pytest
import torch

from dlrm_adahessian.kernels.hits import Hits
from dlrm_adahessian.optim.config import (
    HessianAdagradConfig,
    RowAdagradConfig,
    RowAdaHessianConfig,
    RowwiseAdagradConfig,
)
from dlrm_adahessian.optim.registry import row_rule

pytestmark = pytest.mark.oracle
ROWS, WIDTH, SAMPLES, STEPS = 9, 4, 16, 20
CONFIGS = [
    RowAdagradConfig(lr=0.1),
    RowwiseAdagradConfig(lr=0.1),
    HessianAdagradConfig(lr=0.1),
    HessianAdagradConfig(lr=0.1, curvature_floor=0.0, clip=0.5),
    RowAdaHessianConfig(lr=0.1),
    RowAdaHessianConfig(lr=0.1, rowwise=True, beta1=0.9, power=0.5),
    RowAdaHessianConfig(lr=0.1, beta1=0.9, clip=0.3, curvature_floor=0.0),
]


def all_hits(dtype=torch.float64):
    """20 steps: every third without curvature, the first among them, and rows of which some samples were left out."""
    rng = np.random.default_rng(3)
    for step in range(STEPS):
        rows = torch.from_numpy(np.sort(rng.choice(ROWS, rng.integers(1, ROWS), replace=False)))
        grad = torch.from_numpy(rng.normal(size=(len(rows), WIDTH))).to(dtype) / SAMPLES
        curvature = torch.from_numpy(rng.normal(size=(len(rows), WIDTH)) ** 2).to(dtype) / SAMPLES
        has = torch.from_numpy(rng.random(len(rows)) < 0.7)
        if step % 3 == 0:
            yield Hits(rows=rows, grad=grad)
        else:
            yield Hits(rows=rows, grad=grad, curvature=curvature, has_curvature=has)


def start(dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(4).normal(size=(ROWS, WIDTH))).to(dtype)


def reference(cfg, w):
    """The rules row by row and entry by entry, in Python."""
    s, m = np.zeros((ROWS, WIDTH)), np.zeros((ROWS, WIDTH))
    touches, updates = np.zeros(ROWS), np.zeros(ROWS)
    for hits in all_hits():
        for i, r in enumerate(hits.rows.tolist()):
            g = hits.grad[i].numpy()
            h = hits.curvature[i].numpy() if hits.curvature is not None and hits.has_curvature[i] else None
            if cfg.name == "adahessian":
                g, touches[r] = g * SAMPLES, touches[r] + 1
                m[r] = cfg.beta1 * m[r] + (1 - cfg.beta1) * g
                m_hat = m[r] / (1 - cfg.beta1 ** touches[r])
                if h is not None:
                    h, square = abs(h * SAMPLES), g**2
                    if cfg.rowwise:
                        h, square = np.full(WIDTH, h.mean()), np.full(WIDTH, square.mean())
                    h = np.maximum(h, cfg.curvature_floor * square)
                    s[r] = cfg.beta2 * s[r] + (1 - cfg.beta2) * h**2
                    updates[r] += 1
                if updates[r]:
                    root = np.sqrt(s[r] / (1 - cfg.beta2 ** updates[r]))
                    step = m_hat / (root**cfg.power + cfg.eps)
                else:
                    step = m_hat
            else:
                add = g**2
                if cfg.name == "rowwise_adagrad":
                    add = np.full(WIDTH, add.mean())
                if cfg.name == "hessian_adagrad" and h is not None:
                    add = np.maximum(abs(h) / SAMPLES, cfg.curvature_floor * add)
                s[r] += add
                step = g / (np.sqrt(s[r]) + cfg.eps)
            clip = getattr(cfg, "clip", None)
            w[r] -= cfg.lr * 0.5 * (np.clip(step, -clip, clip) if clip else step)
    return w


def run(cfg, update, dtype=torch.float64):
    rule, w = row_rule(cfg), start(dtype)
    state = rule.new_state(w)
    for hits in all_hits(dtype):
        getattr(rule, update)(w, state, hits, lr_scale=0.5, samples=SAMPLES)
    return w, state


@pytest.mark.parametrize("update", ["update_torch_", "update_numba_"])
@pytest.mark.parametrize("cfg", CONFIGS)
def test_rule_equals_the_reference_in_python(cfg, update):
    w, _ = run(cfg, update)
    np.testing.assert_allclose(w.numpy(), reference(cfg, start().numpy()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cfg", CONFIGS)
def test_kernel_equals_torch_in_weights_and_state(cfg):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        (a, a_state), (b, b_state) = run(cfg, "update_torch_", dtype), run(cfg, "update_numba_", dtype)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        assert a_state.keys() == b_state.keys()
        for name in a_state:
            torch.testing.assert_close(a_state[name], b_state[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cfg", CONFIGS)
def test_untouched_rows_stay(cfg):
    rule, w = row_rule(cfg), start()
    before = w.clone()
    grad = torch.ones(2, WIDTH, dtype=torch.float64)
    hits = Hits(
        rows=torch.tensor([1, 4]), grad=grad, curvature=grad, has_curvature=torch.tensor([True, True])
    )
    rule.update_(w, rule.new_state(w), hits, lr_scale=1, samples=1)
    assert (w != before).any(1).nonzero().squeeze(1).tolist() == [1, 4]


def test_hessian_adagrad_without_curvature_is_adagrad():
    ours, theirs = row_rule(HessianAdagradConfig(lr=0.1)), row_rule(RowAdagradConfig(lr=0.1))
    a, b = start(), start()
    a_state, b_state = ours.new_state(a), theirs.new_state(b)
    for hits in all_hits():
        flat = Hits(
            rows=hits.rows,
            grad=hits.grad,
            curvature=torch.zeros_like(hits.grad),
            has_curvature=torch.ones(len(hits.rows), dtype=torch.bool),
        )
        ours.update_(a, a_state, flat, lr_scale=1, samples=SAMPLES)
        theirs.update_(b, b_state, hits, lr_scale=1, samples=SAMPLES)
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_rows_of_equal_curvature_make_rowwise_equal_elementwise():
    found = []
    for rowwise in (False, True):
        rule, w = row_rule(RowAdaHessianConfig(rowwise=rowwise, curvature_floor=0.0)), start()
        curvature = torch.full((ROWS, WIDTH), 0.3, dtype=torch.float64)
        hits = Hits(
            rows=torch.arange(ROWS),
            grad=torch.ones_like(w),
            curvature=curvature,
            has_curvature=torch.ones(ROWS, dtype=torch.bool),
        )
        rule.update_(w, rule.new_state(w), hits, lr_scale=1, samples=SAMPLES)
        found.append(w)
    torch.testing.assert_close(*found, rtol=1e-13, atol=1e-13)


def test_an_unguarded_hessian_adagrad_is_refused():
    with pytest.raises(ValueError, match="needs a clip"):
        HessianAdagradConfig(curvature_floor=0.0)
