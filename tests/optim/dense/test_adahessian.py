import math
import sys

import numpy as np
import pytest
import torch

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.optim.config import (
    AdagradConfig,
    AdaHessianConfig,
    AdamConfig,
    DenseHessianAdagradConfig,
    MuonConfig,
    ScheduleConfig,
    SGDConfig,
    SOAPConfig,
    SophiaConfig,
)
from dlrm_adahessian.optim.dense.hessian_adagrad import DenseHessianAdagrad
from dlrm_adahessian.optim.registry import dense_optimizer
from dlrm_adahessian.optim.schedule import lr_scale

pytestmark = pytest.mark.oracle
SHAPES, SAMPLES, STEPS = [(2, 3), (5,)], 8, 20
SIZE = 11
DEEP = [(4, 3), (4,), (5, 4), (5,), (2, 5), (2,), (6, 2), (1, 6), (1,)]


def run(cfg, *, every=1, grads=None, curvatures=None, shapes=SHAPES):
    rng = np.random.default_rng(0)
    w = torch.from_numpy(rng.normal(size=sum(map(math.prod, shapes))))
    optimizer = dense_optimizer(cfg, w, shapes)
    grads = grads if grads is not None else rng.normal(size=(STEPS, len(w)))
    curvatures = curvatures if curvatures is not None else rng.normal(size=(STEPS, len(w)))
    start = w.numpy().copy()
    for step in range(STEPS):
        curvature = torch.from_numpy(curvatures[step].copy()) if step % every == 0 else None
        optimizer.step(w, torch.from_numpy(grads[step]), curvature, lr_scale=0.5, samples=SAMPLES)
    return start, grads, curvatures, w.numpy()


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("floor", [0.0, 1.0])
def test_adahessian_equals_the_papers_formula(every, power, block_size, floor):
    cfg = AdaHessianConfig(
        lr=0.1, power=power, block_size=block_size, curvature_floor=floor, weight_decay=0.01, eps=1e-2
    )
    w, grads, curvatures, found = run(cfg, every=every)
    m, v, t = np.zeros_like(w), np.zeros_like(w), 0
    for step in range(STEPS):
        m = cfg.beta1 * m + (1 - cfg.beta1) * grads[step]
        if step % every == 0:
            t += 1
            h = curvatures[step].copy()
            if block_size > 1:
                for begin in (0, 4, 6, 10):
                    end = {0: 4, 4: 6, 6: 10, 10: 11}[begin]
                    h[begin:end] = abs(h[begin:end].mean())
            h = np.maximum(h, floor * SAMPLES * grads[step] ** 2) if floor else h
            v = cfg.beta2 * v + (1 - cfg.beta2) * h**2
        m_hat, v_hat = m / (1 - cfg.beta1 ** (step + 1)), v / (1 - cfg.beta2**t)
        w = w * (1 - 0.05 * cfg.weight_decay) - 0.05 * m_hat / (np.sqrt(v_hat) ** power + cfg.eps)
    np.testing.assert_allclose(found, w, rtol=1e-12, atol=1e-12)


def test_adahessian_with_the_gradient_as_curvature_is_adam():
    grads = np.random.default_rng(1).normal(size=(STEPS, SIZE))
    ours = AdaHessianConfig(power=1.0, lr=0.1, curvature_floor=0.0, eps=1e-8)
    found = run(ours, grads=grads, curvatures=grads)[-1]
    np.testing.assert_allclose(found, run(AdamConfig(lr=0.1, eps=1e-8), grads=grads)[-1], rtol=1e-11)


def test_adahessian_without_power_is_momentum():
    w, grads, _, found = run(AdaHessianConfig(lr=0.1, power=0.0, eps=0.0))
    m = np.zeros_like(w)
    for step in range(STEPS):
        m = 0.9 * m + 0.1 * grads[step]
        w = w - 0.05 * m / (1 - 0.9 ** (step + 1))
    np.testing.assert_allclose(found, w, rtol=1e-12)


@pytest.mark.parametrize(
    ("cfg", "reference"),
    [
        (AdagradConfig(lr=0.1, eps=1e-8), lambda p: torch.optim.Adagrad(p, lr=0.05, eps=1e-8)),
        (
            AdamConfig(lr=0.1, eps=1e-8, weight_decay=0.01),
            lambda p: torch.optim.AdamW(p, lr=0.05, eps=1e-8, weight_decay=0.01),
        ),
        (SGDConfig(lr=0.1, momentum=0.0), lambda p: torch.optim.SGD(p, lr=0.05)),
        (SGDConfig(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
        (
            SGDConfig(lr=0.1, nesterov=True),
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
        ),
    ],
)
def test_first_order_rules_equal_torchs(cfg, reference):
    w, grads, _, found = run(cfg)
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimizer = reference([parameter])
    for grad in grads:
        parameter.grad = torch.from_numpy(grad)
        optimizer.step()
    np.testing.assert_allclose(found, parameter.detach().numpy(), rtol=1e-12)


def test_sgd_decays_weights_apart_from_the_gradient():
    w, grads, _, found = run(SGDConfig(lr=0.1, momentum=0.8, weight_decay=0.3))
    m = np.zeros_like(w)
    for grad in grads:
        m = 0.8 * m + grad
        w = w * (1 - 0.05 * 0.3) - 0.05 * m
    np.testing.assert_allclose(found, w, rtol=1e-12, atol=1e-12)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValueError, match="needs a momentum above 0, got 0"):
        SGDConfig(momentum=0.0, nesterov=True)


@pytest.mark.parametrize("every", [1, 3])
def test_sophia_equals_the_papers_algorithm(every):
    cfg = SophiaConfig(lr=0.1, gamma=20.0, weight_decay=0.2)
    w, grads, curvatures, found = run(cfg, every=every)
    m, h, clipped = np.zeros_like(w), np.zeros_like(w), 0
    for step in range(STEPS):
        m = 0.96 * m + 0.04 * grads[step]
        if step % every == 0:
            h = 0.99 * h + 0.01 * curvatures[step]
        direction = m / np.maximum(20 * h, 1e-12)
        clipped += (abs(direction) > 1).sum()
        w = w * (1 - 0.05 * 0.2) - 0.05 * np.clip(direction, -1, 1)
    np.testing.assert_allclose(found, w, rtol=1e-12, atol=1e-12)
    assert 0 < clipped < STEPS * SIZE


def parameters_of(w, shapes):
    parts = torch.from_numpy(w.copy()).split([math.prod(shape) for shape in shapes])
    return [torch.nn.Parameter(part.view(shape).clone()) for part, shape in zip(parts, shapes, strict=True)]


def steps_of(optimizers, parameters, grads):
    """The parameters after one step per gradient, (P,)."""
    for grad in grads:
        parts = torch.from_numpy(grad).split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        for optimizer in optimizers:
            optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in parameters]).numpy()


def test_muon_equals_torchs_on_hidden_matrices_and_adamw_elsewhere():
    w, grads, _, found = run(MuonConfig(lr=0.1, weight_decay=0.01, momentum=0.9), shapes=DEEP)
    parameters = parameters_of(w, DEEP)
    hidden = [parameters[i] for i in (2, 4, 6)]
    rest = [parameters[i] for i in (0, 1, 3, 5, 7, 8)]
    muon = torch.optim.Muon(hidden, lr=0.05, weight_decay=0.01, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, lr=0.05, weight_decay=0.01)
    np.testing.assert_allclose(found, steps_of([muon, adam], parameters, grads), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shapes", [[(4, 3), (4,), (1, 4), (1,)], [(5,)]])
def test_muon_without_a_hidden_matrix_is_refused(shapes):
    with pytest.raises(UsageError, match="between the first and the last, and the model has.*--model.top"):
        dense_optimizer(MuonConfig(), torch.zeros(sum(map(math.prod, shapes))), shapes)


@pytest.mark.parametrize("max_dim", [10_000, 4])
def test_soap_equals_the_package_on_parameters_of_its_own(max_dim):
    package = pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
    cfg = SOAPConfig(lr=0.1, precondition_every=3, weight_decay=0.01, max_dim=max_dim)
    w, grads, _, found = run(cfg, shapes=DEEP)
    parameters = parameters_of(w, DEEP)
    theirs = package.SOAP(
        parameters, lr=0.05, weight_decay=0.01, precondition_frequency=3, max_precondition_dim=max_dim
    )
    np.testing.assert_allclose(found, steps_of([theirs], parameters, grads), rtol=1e-12, atol=1e-12)


def test_soap_without_bases_is_adam_after_a_first_step_that_only_looks():
    pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
    shapes = [(11,)]  # vectors have no basis
    w, grads, _, found = run(SOAPConfig(lr=0.1, beta1=0.9, beta2=0.95, eps=0.0), shapes=shapes)
    (parameter,) = parameters = parameters_of(w, shapes)
    adam = torch.optim.Adam([parameter], lr=0.05, betas=(0.9, 0.95), eps=0.0)
    np.testing.assert_allclose(found, steps_of([adam], parameters, grads[1:]), rtol=1e-12, atol=1e-12)


def test_soap_without_its_package_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    monkeypatch.setitem(sys.modules, "pytorch_optimizer.optimizer", None)
    with pytest.raises(
        UsageError, match=r"soap needs the package pytorch_optimizer.*pip install -e '.\[rivals\]'"
    ):
        dense_optimizer(SOAPConfig(), torch.zeros(SIZE), SHAPES)


def test_soap_refuses_a_package_that_keeps_other_state(monkeypatch):
    package = pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
    original = package.SOAP.init_pre_conditioner

    def more(self, grad, state, **options):
        original(self, grad, state, **options)
        state["new"] = torch.zeros(1)

    monkeypatch.setattr(package.SOAP, "init_pre_conditioner", more)
    with pytest.raises(UsageError, match="keeps .*, new, which a checkpoint would lack"):
        run(SOAPConfig())


@pytest.mark.parametrize(
    "cfg",
    [
        AdaHessianConfig(),
        AdagradConfig(),
        AdamConfig(),
        MuonConfig(),
        SGDConfig(),
        SOAPConfig(),
        SophiaConfig(),
    ],
)
def test_state_copied_into_a_new_optimizer_continues_bit_for_bit(cfg):
    """At a place where SOAP turns its basis, and into parameters that lie elsewhere."""
    if cfg.name == "soap":
        pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
    rng = np.random.default_rng(1)
    size = sum(map(math.prod, DEEP))
    grads, curvatures = torch.from_numpy(rng.normal(size=(2, STEPS, size)))
    w = torch.from_numpy(rng.normal(size=size))
    first = dense_optimizer(cfg, w, DEEP)
    copy, second = w, first
    for step in range(STEPS):
        if step == 9:
            copy = w.clone()
            second = dense_optimizer(cfg, torch.zeros_like(w), DEEP)
            assert second.state.keys() == first.state.keys()
            for name, tensor in second.state.items():
                tensor.copy_(first.state[name])
        for parameters, optimizer in {id(first): (w, first), id(second): (copy, second)}.values():
            optimizer.step(parameters, grads[step], curvatures[step], lr_scale=0.5, samples=SAMPLES)
    assert copy is not w
    assert torch.equal(w, copy)


def test_adahessian_waits_for_the_first_curvature():
    w = torch.ones(11)
    optimizer = dense_optimizer(AdaHessianConfig(), w, SHAPES)
    optimizer.step(w, torch.ones(11), None, lr_scale=1, samples=1)
    assert torch.equal(w, torch.ones(11))


def test_schedule_warms_up_and_decays_to_its_last_step():
    cfg = ScheduleConfig(warmup=0.2, decay="linear")
    assert [lr_scale(step, 10, cfg) for step in range(1, 11)] == [
        0.5,
        1,
        1,
        *(n / 8 for n in range(7, 0, -1)),
    ]
    assert {lr_scale(step, 10, ScheduleConfig()) for step in range(1, 11)} == {1.0}


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(("floor", "beta1"), [(0.1, 0.0), (1.0, 0.0), (1.0, 0.9)])
@pytest.mark.parametrize("update", ["update_torch_", "update_numba_"])
def test_hessian_adagrad_equals_its_formula(every, floor, beta1, update, monkeypatch):
    monkeypatch.setattr(DenseHessianAdagrad, "update_numba_", getattr(DenseHessianAdagrad, update))
    cfg = DenseHessianAdagradConfig(lr=0.1, eps=1e-3, curvature_floor=floor, beta1=beta1)
    w, grads, curvatures, found = run(cfg, every=every)
    total, mean = np.zeros_like(w), np.zeros_like(w)
    for step in range(STEPS):
        square = grads[step] ** 2
        if step % every == 0:
            total += np.maximum(np.abs(curvatures[step]) / SAMPLES, floor * square)
        else:
            total += square
        mean = beta1 * mean + (1 - beta1) * grads[step]
        corrected = mean / (1 - beta1 ** (step + 1))
        w = w - 0.5 * cfg.lr * corrected / (np.sqrt(total) + cfg.eps)
    np.testing.assert_allclose(found, w, rtol=0, atol=1e-12)


def test_hessian_adagrad_is_adagrad_where_the_curvature_is_the_squared_gradient():
    _, grads, _, expected = run(AdagradConfig(lr=0.1))
    *_, found = run(DenseHessianAdagradConfig(lr=0.1), grads=grads, curvatures=SAMPLES * grads**2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
