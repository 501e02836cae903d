"""Properties of every row rule. A new rule in the table is tested automatically."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from dlrm_adahessian.kernels.row_sums import sum_hits
from dlrm_adahessian.optim.rows import (
    HessianAdagradConfig,
    RowAdagradConfig,
    RowAdaHessianConfig,
    RowAdamConfig,
    RowConfig,
    RowSophiaConfig,
    RowwiseAdagradConfig,
)
from tests.optim.rows.problem import (
    DIRECTIONS,
    ROWS,
    SAMPLES,
    STEPS,
    WIDTH,
    all_hits,
    as_read,
    hits_of,
    reference,
    run,
    start,
)

pytestmark = pytest.mark.oracle
CONFIGS = [
    *(kind(lr=0.1) for kind in get_args(RowConfig)),
    RowAdagradConfig(lr=0.1, initial_accumulator=0.3),
    RowwiseAdagradConfig(lr=0.1, initial_accumulator=0.3),
    HessianAdagradConfig(lr=0.1, curvature_floor=0.0, clip=0.5),
    HessianAdagradConfig(lr=0.1, rowwise=True, curvature_floor=0.3),
    RowAdaHessianConfig(lr=0.1, rowwise=True, beta1=0.9, power=0.5),
    RowAdaHessianConfig(lr=0.1, beta1=0.9, clip=0.3, curvature_floor=0.0),
    RowAdamConfig(lr=0.1, beta1=0.0, beta2=0.9, eps=1e-3, weight_decay=0.1),
    RowSophiaConfig(lr=0.1, beta1=0.5, beta2=0.5, gamma=1.0, eps=0.3),
]


def test_every_rule_has_a_reference_in_python():
    assert {kind().name for kind in get_args(RowConfig)} == DIRECTIONS.keys()


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
    rule, w = cfg.build(), start()
    before = w.clone()
    grad = torch.ones(2, WIDTH, dtype=torch.float64)
    hits = hits_of(torch.tensor([1, 4]), grad, grad)
    rule.update_(w, rule.new_state(w), as_read(cfg, hits), lr_scale=1, samples=1)
    assert (w != before).any(1).nonzero().squeeze(1).tolist() == [1, 4]


@pytest.mark.parametrize(("config", "floor"), [(RowAdaHessianConfig, 0.0), (HessianAdagradConfig, 1e-9)])
def test_rows_of_equal_curvature_make_rowwise_equal_elementwise(config, floor):
    found = []
    for rowwise in (False, True):
        rule, w = config(rowwise=rowwise, curvature_floor=floor).build(), start()
        curvature = torch.full((ROWS, WIDTH), 0.3, dtype=torch.float64)
        hits = hits_of(torch.arange(ROWS), torch.ones_like(w), curvature)
        rule.update_(w, rule.new_state(w), as_read(rule.cfg, hits), lr_scale=1, samples=SAMPLES)
        found.append(w)
    torch.testing.assert_close(*found, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("update", ["update_torch_", "update_numba_"])
@pytest.mark.parametrize("cfg", CONFIGS)
def test_a_rank_without_rows_updates_nothing(cfg, update):
    rule, w = cfg.build(), start()[:0]
    none = hits_of(torch.empty(0, dtype=torch.int64), w, w[:, :1] if cfg.pooled_curvature == "mean" else w)
    getattr(rule, update)(w, rule.new_state(w), none, lr_scale=1, samples=SAMPLES)


@pytest.mark.parametrize("cfg", CONFIGS)
def test_repeated_ids_of_a_batch_act_once_with_their_sum(cfg):
    """Compare lookups in a table, one row of which appears late, with one update per row and summed derivatives."""
    rng = np.random.default_rng(7)
    rule = cfg.build()
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
        summed = replace(
            hits_of(rows, (one_hot.T @ grad)[rows], (one_hot.T @ curvature)[rows]),
            count=one_hot.sum(0).long()[rows],
        )
        rule.update_torch_(expected, expected_state, as_read(cfg, summed), lr_scale=0.5, samples=SAMPLES)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cfg", CONFIGS)
def test_state_copied_into_a_new_rule_continues_bit_for_bit(cfg):
    rule, w = cfg.build(), start()
    state = rule.new_state(w)
    for step, hits in enumerate(all_hits()):
        if step == STEPS // 2:
            copy, copied = w.clone(), {name: tensor.clone() for name, tensor in state.items()}
        if step >= STEPS // 2:
            cfg.build().update_(copy, copied, as_read(cfg, hits), lr_scale=0.5, samples=SAMPLES)
        rule.update_(w, state, as_read(cfg, hits), lr_scale=0.5, samples=SAMPLES)
    assert torch.equal(w, copy)
    assert all(torch.equal(state[name], copied[name]) for name in state)
