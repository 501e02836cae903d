"""What holds for every dense optimizer of the table: a new one is tested as soon as it is there."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from dlrm_adahessian.optim.dense import DenseConfig, DenseHessianAdagradConfig
from tests.optim.dense.problem import DEEP, SAMPLES, STEPS

pytestmark = pytest.mark.oracle
CONFIGS = [*(kind() for kind in get_args(DenseConfig)), DenseHessianAdagradConfig(beta1=0.9)]


def needs_its_package(cfg):
    if cfg.name in ("shampoo", "soap"):
        pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")


@pytest.mark.parametrize("cfg", CONFIGS)
def test_state_copied_into_a_new_optimizer_continues_bit_for_bit(cfg):
    """At a place where SOAP turns its basis, and into parameters that lie elsewhere."""
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
