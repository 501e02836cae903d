"""Test the public names of `import dlrm_adahessian` and what the import loads."""

import subprocess
import sys

import pytest

import dlrm_adahessian

HEAVY = (
    "torch",
    "torchrec",
    "fbgemm_gpu",
    "numba",
    "triton",
    "pandas",
    "pyarrow",
    "matplotlib",
    "optuna",
    "scipy",
)


@pytest.mark.parametrize("name", dlrm_adahessian.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(dlrm_adahessian, name) is not None


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = dlrm_adahessian.nonsense


def test_the_library_trains_a_model_where_neither_torchrec_nor_fbgemm_is_installed() -> None:
    program = """
import sys
sys.modules.update(torchrec=None, fbgemm_gpu=None)  # an import of them fails
import torch
from dlrm_adahessian import AdaHessian, Eigenbasis, HessianAdagrad, exact_curvature, hutchinson_curvature
model, (x, y) = torch.nn.Linear(3, 1), torch.ones(2, 4, 3)
optimizer = AdaHessian(model.parameters())
with exact_curvature(model):
    torch.nn.functional.binary_cross_entropy_with_logits(model(x), y[:, :1]).backward()
optimizer.step()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("imported", ["dlrm_adahessian", "dlrm_adahessian.cli"])
def test_importing_loads_nothing_heavy(imported: str) -> None:
    program = f"import sys, {imported}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
