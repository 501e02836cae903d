import sys

import numpy as np
import pytest
import torch

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.optim.dense import SOAPConfig
from tests.optim.dense.problem import DEEP, SHAPES, SIZE, parameters_of, run, steps_of

pytestmark = pytest.mark.oracle


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
        SOAPConfig().build(torch.zeros(SIZE), SHAPES)


def test_soap_refuses_a_package_that_keeps_other_state(monkeypatch):
    package = pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
    original = package.SOAP.init_pre_conditioner

    def more(self, grad, state, **options):
        original(self, grad, state, **options)
        state["new"] = torch.zeros(1)

    monkeypatch.setattr(package.SOAP, "init_pre_conditioner", more)
    with pytest.raises(UsageError, match="has .*, new\\. Checkpoints would be incomplete"):
        run(SOAPConfig())
