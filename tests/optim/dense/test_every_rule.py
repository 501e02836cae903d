"""Properties of every dense optimizer. A new optimizer in the table is tested automatically."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from dlrm_adahessian.optim.dense import (
    AdaHessianConfig,
    DenseConfig,
    DenseHessianAdagradConfig,
    EigenbasisConfig,
    SophiaConfig,
)
from tests.optim.dense.problem import DEEP, SAMPLES, STEPS

pytestmark = pytest.mark.oracle
CONFIGS = [*(kind() for kind in get_args(DenseConfig)), DenseHessianAdagradConfig(beta1=0.9)]


def needs_its_package(cfg):
    if cfg.name in ("shampoo", "soap"):
        pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")


@pytest.mark.parametrize("cfg", CONFIGS)
def test_state_copied_into_a_new_optimizer_continues_bit_for_bit(cfg):
    """Resume at a step at which SOAP updates its basis, into parameters at another memory address."""
    needs_its_package(cfg)
    rng = np.random.default_rng(1)
    size = sum(map(math.prod, DEEP))
    grads, curvatures = torch.from_numpy(rng.normal(size=(2, STEPS, size)))
    w = torch.from_numpy(rng.normal(size=size))
    first = cfg.build(w, DEEP)
    copy, second = w, first
    for step in range(STEPS):
        if step == 9:
            copy = w.clone()
            second = cfg.build(torch.zeros_like(w), DEEP)
            assert second.state.keys() == first.state.keys()
            for name, tensor in second.state.items():
                tensor.copy_(first.state[name])
            second.served(copy).copy_(first.served(w))
            second.resume_(copy)
        for parameters, optimizer in {id(first): (w, first), id(second): (copy, second)}.values():
            optimizer.step(parameters, grads[step], curvatures[step], lr_scale=0.5, samples=SAMPLES)
    assert copy is not w
    assert torch.equal(w, copy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("cfg", CONFIGS)
def test_steps_on_a_quadratic_bring_it_down_in_place_and_in_its_type(cfg, dtype):
    needs_its_package(cfg)
    generator = torch.Generator().manual_seed(2)
    hess_diag = torch.rand(sum(map(math.prod, DEEP)), generator=generator, dtype=dtype) + 0.5
    w = torch.randn(len(hess_diag), generator=generator, dtype=dtype)
    optimizer, address = cfg.build(w, DEEP), w.data_ptr()
    before = float((hess_diag * w.square()).sum())
    for _ in range(STEPS):
        optimizer.step(w, hess_diag * w, hess_diag.clone(), lr_scale=0.5, samples=1)
    assert float((hess_diag * w.square()).sum()) < before
    assert (w.data_ptr(), w.dtype) == (address, dtype)
    numbers = [t for t in optimizer.state.values() if t.dim() == 0]
    assert all(t.dtype == dtype for t in optimizer.state.values() if t.dim())
    assert all(t.dtype in (torch.int64, torch.float64) for t in numbers)


@pytest.mark.parametrize("cfg", CONFIGS)
def test_a_rule_without_curvature_reads_none_and_one_with_curvature_does(cfg):
    needs_its_package(cfg)
    generator = torch.Generator().manual_seed(3)
    start, grad, curvature = torch.randn(3, sum(map(math.prod, DEEP)), generator=generator)
    found = []
    for given in (curvature.abs(), 2 * curvature.abs()):
        w = start.clone()
        optimizer = cfg.build(w, DEEP)
        for _ in range(2):
            optimizer.step(w, grad.clone(), given, lr_scale=1, samples=SAMPLES)
        found.append(w)
    assert torch.equal(*found) != cfg.uses_curvature


WITH_FLOOR = [
    DenseHessianAdagradConfig(curvature_floor=0.3),
    AdaHessianConfig(curvature_floor=0.3, block_size=1, average_rows=True),
    EigenbasisConfig(curvature_floor=0.3, accumulation="sum", beta2=1.0, rank=2),
]


@pytest.mark.parametrize("cfg", WITH_FLOOR, ids=lambda cfg: cfg.name)
def test_where_an_entry_takes_the_floor_a_larger_curvature_changes_nothing(cfg):
    """A larger curvature up to the floor changes nothing; every other entry changes. The eigenbasis has rotated before."""
    rng = np.random.default_rng(2)
    size = sum(map(math.prod, DEEP))
    grad, curvature, w = torch.from_numpy(rng.normal(size=(3, size)))
    curvature = curvature * SAMPLES
    states = []
    for factor in (1.0, 0.999):
        optimizer = cfg.build(w.clone(), DEEP)
        if optimizer.basis is not None:
            factors = optimizer.basis.state["factors"]
            optimizer.observe_(torch.from_numpy(np.random.default_rng(3).normal(size=factors.shape)) ** 2)
        floored = optimizer.floored(grad, curvature * factor, samples=SAMPLES)
        optimizer.step(w.clone(), grad, curvature * factor, lr_scale=1.0, samples=SAMPLES)
        (name,) = optimizer.state.keys() & {"sum", "mean_square", "square"}
        states.append((floored, optimizer.state[name]))
    (floored, state), (_, smaller) = states
    assert 0.1 < floored.float().mean() < 0.9
    assert torch.equal(floored, state == smaller)


def test_a_rule_without_a_floor_says_so():
    for cfg in (AdaHessianConfig(curvature_floor=0.0), SophiaConfig()):
        entries = torch.ones(2)
        assert cfg.build(torch.ones(2), [(2,)]).floored(entries, entries, samples=1) is None
