from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dlrm_adahessian.kernels.hits import Hits
from dlrm_adahessian.kernels.sum_hits import sum_hits
from dlrm_adahessian.optim.config import (
    HessianAdagradConfig,
    RowAdagradConfig,
    RowAdaHessianConfig,
    RowAdamConfig,
    RowSGDConfig,
    RowSophiaConfig,
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
    HessianAdagradConfig(lr=0.1, rowwise=True, curvature_floor=0.3),
    RowAdaHessianConfig(lr=0.1),
    RowAdaHessianConfig(lr=0.1, rowwise=True, beta1=0.9, power=0.5),
    RowAdaHessianConfig(lr=0.1, beta1=0.9, clip=0.3, curvature_floor=0.0),
    RowAdamConfig(lr=0.1),
    RowAdamConfig(lr=0.1, beta1=0.0, beta2=0.9, eps=1e-3, weight_decay=0.1),
    RowSGDConfig(lr=0.1),
    RowSophiaConfig(lr=0.1),
    RowSophiaConfig(lr=0.1, beta1=0.5, beta2=0.5, gamma=1.0, eps=0.3),
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


def as_read(cfg, hits):
    """The hits as the rule gets them: with one accumulator per row, the mean of the curvature."""
    if cfg.pooled_curvature != "mean" or hits.curvature is None:
        return hits
    return replace(hits, curvature=hits.curvature.mean(1, keepdim=True))


def start(dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(4).normal(size=(ROWS, WIDTH))).to(dtype)


def adahessian(cfg, row, g, h, w):
    g, row.touches = g * SAMPLES, row.touches + 1
    row.m = cfg.beta1 * row.m + (1 - cfg.beta1) * g
    m_hat = row.m / (1 - cfg.beta1**row.touches)
    if h is not None:
        h, square = abs(h * SAMPLES), g**2
        if cfg.rowwise:
            h, square = np.full(WIDTH, h.mean()), np.full(WIDTH, square.mean())
        h = np.maximum(h, cfg.curvature_floor * square)
        row.s = cfg.beta2 * row.s + (1 - cfg.beta2) * h**2
        row.updates += 1
    if not row.updates:
        return m_hat
    root = np.sqrt(row.s / (1 - cfg.beta2**row.updates))
    return m_hat / (root**cfg.power + cfg.eps)


def adagrads(cfg, row, g, h, w):
    add = g**2
    if cfg.name == "rowwise_adagrad" or getattr(cfg, "rowwise", False):
        add = np.full(WIDTH, add.mean())
        h = h if h is None else np.full(WIDTH, h.mean())
    if cfg.name == "hessian_adagrad" and h is not None:
        add = np.maximum(abs(h) / SAMPLES, cfg.curvature_floor * add)
    row.s = row.s + add
    return g / (np.sqrt(row.s) + cfg.eps)


def adam(cfg, row, g, h, w):
    row.touches += 1
    row.m = cfg.beta1 * row.m + (1 - cfg.beta1) * g
    row.s = cfg.beta2 * row.s + (1 - cfg.beta2) * g**2
    m_hat, s_hat = row.m / (1 - cfg.beta1**row.touches), row.s / (1 - cfg.beta2**row.touches)
    return m_hat / (np.sqrt(s_hat) + cfg.eps) + cfg.weight_decay * w


def sgd(cfg, row, g, h, w):
    return g


def sophia(cfg, row, g, h, w):
    row.m = cfg.beta1 * row.m + (1 - cfg.beta1) * g * SAMPLES
    if h is not None:
        row.s = cfg.beta2 * row.s + (1 - cfg.beta2) * h * SAMPLES
    return np.clip(row.m / np.maximum(cfg.gamma * row.s, cfg.eps), -1, 1)


DIRECTIONS = {
    "adagrad": adagrads,
    "adahessian": adahessian,
    "adam": adam,
    "hessian_adagrad": adagrads,
    "rowwise_adagrad": adagrads,
    "sgd": sgd,
    "sophia": sophia,
}


def reference(cfg, w):
    """The rules row by row, in Python."""
    rows = [SimpleNamespace(s=np.zeros(WIDTH), m=np.zeros(WIDTH), touches=0, updates=0) for _ in range(ROWS)]
    for hits in all_hits():
        for i, r in enumerate(hits.rows.tolist()):
            h = hits.curvature[i].numpy() if hits.curvature is not None and hits.has_curvature[i] else None
            step = DIRECTIONS[cfg.name](cfg, rows[r], hits.grad[i].numpy(), h, w[r])
            clip = getattr(cfg, "clip", None)
            w[r] -= cfg.lr * 0.5 * (np.clip(step, -clip, clip) if clip else step)
    return w


def run(cfg, update, dtype=torch.float64):
    rule, w = row_rule(cfg), start(dtype)
    state = rule.new_state(w)
    for hits in all_hits(dtype):
        getattr(rule, update)(w, state, as_read(cfg, hits), lr_scale=0.5, samples=SAMPLES)
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
    rule.update_(w, rule.new_state(w), as_read(cfg, hits), lr_scale=1, samples=1)
    assert (w != before).any(1).nonzero().squeeze(1).tolist() == [1, 4]


@pytest.mark.parametrize(
    ("rowwise", "plain"), [(False, RowAdagradConfig(lr=0.1)), (True, RowwiseAdagradConfig(lr=0.1))]
)
def test_hessian_adagrad_without_curvature_is_adagrad(rowwise, plain):
    ours, theirs = row_rule(HessianAdagradConfig(lr=0.1, rowwise=rowwise)), row_rule(plain)
    a, b = start(), start()
    a_state, b_state = ours.new_state(a), theirs.new_state(b)
    for hits in all_hits():
        flat = Hits(
            rows=hits.rows,
            grad=hits.grad,
            curvature=torch.zeros_like(hits.grad),
            has_curvature=torch.ones(len(hits.rows), dtype=torch.bool),
        )
        ours.update_(a, a_state, as_read(ours.cfg, flat), lr_scale=1, samples=SAMPLES)
        theirs.update_(b, b_state, hits, lr_scale=1, samples=SAMPLES)
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("config", "floor"), [(RowAdaHessianConfig, 0.0), (HessianAdagradConfig, 1e-9)])
def test_rows_of_equal_curvature_make_rowwise_equal_elementwise(config, floor):
    found = []
    for rowwise in (False, True):
        rule, w = row_rule(config(rowwise=rowwise, curvature_floor=floor)), start()
        curvature = torch.full((ROWS, WIDTH), 0.3, dtype=torch.float64)
        hits = Hits(
            rows=torch.arange(ROWS),
            grad=torch.ones_like(w),
            curvature=curvature,
            has_curvature=torch.ones(ROWS, dtype=torch.bool),
        )
        rule.update_(w, rule.new_state(w), as_read(rule.cfg, hits), lr_scale=1, samples=SAMPLES)
        found.append(w)
    torch.testing.assert_close(*found, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("update", ["update_torch_", "update_numba_"])
@pytest.mark.parametrize("cfg", CONFIGS)
def test_a_rank_without_rows_updates_nothing(cfg, update):
    rule, w = row_rule(cfg), start()[:0]
    none = Hits(
        rows=torch.empty(0, dtype=torch.int64),
        grad=w,
        curvature=w[:, :1] if cfg.pooled_curvature == "mean" else w,
        has_curvature=torch.empty(0, dtype=torch.bool),
    )
    getattr(rule, update)(w, rule.new_state(w), none, lr_scale=1, samples=SAMPLES)


def test_an_unguarded_hessian_adagrad_is_refused():
    with pytest.raises(ValueError, match="needs a clip"):
        HessianAdagradConfig(curvature_floor=0.0)


def test_lazy_adam_is_sparse_adam_on_rows_touched_at_every_step():
    rng = np.random.default_rng(5)
    # SparseAdam adds eps before the correction of the second moment; without eps there is no difference.
    rule, w = row_rule(RowAdamConfig(lr=0.1, eps=0.0)), start()
    state, rows = rule.new_state(w), torch.tensor([0, 3, 4, 8])
    parameter = torch.nn.Parameter(w.clone())
    theirs = torch.optim.SparseAdam([parameter], lr=0.05, eps=1e-300)
    for _ in range(STEPS):
        grad = torch.from_numpy(rng.normal(size=(len(rows), WIDTH)))
        rule.update_(w, state, Hits(rows=rows, grad=grad), lr_scale=0.5, samples=SAMPLES)
        parameter.grad = torch.sparse_coo_tensor(
            rows.unsqueeze(0), grad, w.shape, is_coalesced=True, check_invariants=True
        )
        theirs.step()
    torch.testing.assert_close(w, parameter.detach(), rtol=1e-12, atol=1e-12)


def test_lazy_adam_moves_a_row_by_lr_whenever_it_is_first_seen():
    rule, w = row_rule(RowAdamConfig(lr=0.1, eps=0.0)), start()
    state, before = rule.new_state(w), start()
    for _ in range(15):
        rule.update_(
            w, state, Hits(rows=torch.tensor([2]), grad=torch.ones_like(w[:1])), lr_scale=1, samples=1
        )
    late = Hits(rows=torch.tensor([7]), grad=torch.full_like(w[:1], -0.3))
    rule.update_(w, state, late, lr_scale=1, samples=1)
    torch.testing.assert_close(w[7], before[7] + 0.1, rtol=1e-13, atol=1e-13)
    assert state["touches"][[2, 7]].tolist() == [15, 1]


def test_sophia_without_curvature_moves_by_the_sign_of_the_mean_gradient():
    rule, w = row_rule(RowSophiaConfig(lr=0.1)), start()
    grad = torch.from_numpy(np.random.default_rng(6).normal(size=(1, WIDTH)))
    rule.update_(w, rule.new_state(w), Hits(rows=torch.tensor([5]), grad=grad), lr_scale=1, samples=1)
    torch.testing.assert_close(w[5], start()[5] - 0.1 * grad[0].sign(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("cfg", CONFIGS)
def test_repeated_ids_of_a_batch_act_once_with_their_sum(cfg):
    """Lookups of one table, of which one row comes late, against one touch per distinct row with summed derivatives."""
    rng = np.random.default_rng(7)
    rule = row_rule(cfg)
    found, expected = start(), start()
    found_state, expected_state = rule.new_state(found), rule.new_state(expected)
    slots = torch.full((ROWS,), -1, dtype=torch.int32)
    for step in range(STEPS):
        ids = torch.from_numpy(rng.integers(0, ROWS - 1, 12))
        if step > 15:
            ids[3] = ROWS - 1
        grad, curvature = torch.from_numpy(rng.normal(size=(2, 12, WIDTH)) / SAMPLES)
        starts = torch.tensor([0, 12])
        read = curvature.mean(1, keepdim=True) if cfg.pooled_curvature == "mean" else curvature
        hits = sum_hits(ids, torch.arange(12), grad, read, table_starts=starts, slots=slots)
        rule.update_numba_(found, found_state, hits, lr_scale=0.5, samples=SAMPLES)
        one_hot = torch.nn.functional.one_hot(ids, ROWS).double()
        rows = one_hot.any(0).nonzero().squeeze(1)
        summed = Hits(
            rows=rows,
            grad=(one_hot.T @ grad)[rows],
            curvature=(one_hot.T @ curvature)[rows],
            has_curvature=torch.ones(len(rows), dtype=torch.bool),
        )
        rule.update_torch_(expected, expected_state, as_read(cfg, summed), lr_scale=0.5, samples=SAMPLES)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
