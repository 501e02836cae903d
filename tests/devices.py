"""Parameters for tests of GPU kernels: compiled on CUDA, or interpreted on the CPU if there is no GPU."""

import pytest
import torch

from dlrm_adahessian.kernels.compiled import triton_available

needs_triton = pytest.mark.skipif(not triton_available(), reason="Triton is not installed")
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
_interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled for the GPU")
DEVICES = [pytest.param("cpu", marks=_interpreted), pytest.param("cuda", marks=needs_gpu)]
