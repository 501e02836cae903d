"""What `import dlrm_adahessian` offers, and what it costs."""

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


@pytest.mark.parametrize("imported", ["dlrm_adahessian", "dlrm_adahessian.cli"])
def test_importing_loads_nothing_heavy(imported: str) -> None:
    program = f"import sys, {imported}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
