"""Test that kernels compile at first use, and that CPU kernels are compiled once for all processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlrm_adahessian.kernels import compiled
from dlrm_adahessian.kernels.compiled import triton_kernel
from tests.devices import needs_triton

FIRST_USE = """
import sys
import numpy as np
from dlrm_adahessian.optim.rows.sgd import _update
assert not {"numba", "torch"} & sys.modules.keys()
weight = np.ones((3, 2), np.float32)
_update(weight, np.array([0, 2]), np.ones((2, 2), np.float32), np.float32(0.5))
assert weight.tolist() == [[0.5, 0.5], [1, 1], [0.5, 0.5]]
"""


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.nb?")}


def test_a_second_process_takes_a_kernel_from_numbas_cache(tmp_path):
    found = []
    for _ in range(2):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", FIRST_USE], env=environment, check=True)
        found.append(written(tmp_path))
    assert [Path(name).suffix for name in sorted(found[0])] == [".nbc", ".nbi"]
    assert found[0] == found[1]


@triton_kernel
def _double(x):
    return x + x


@triton_kernel
def _quadruple(x):
    return _double(_double(x))


@needs_triton
def test_a_kernel_calls_another_as_triton_has_it():
    import triton.language as tl

    whole = _quadruple.compiled
    assert _quadruple.compiled is whole
    assert type(_double) is type(whole)  # the global was replaced
    assert whole.fn.__globals__["tl"] is tl


def test_without_triton_the_use_of_a_kernel_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(compiled, "triton_available", lambda: False)

    @triton_kernel
    def kernel(x):
        return x

    with pytest.raises(RuntimeError, match="kernel needs Triton, which is not installed"):
        kernel[(1,)](0)
