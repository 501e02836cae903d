"""Train DLRM with second-order optimizers on dense and sparse parameters."""

from pathlib import Path

from dlrm_adahessian.runtime.process import settle_numba

__version__ = "0.1.0"

settle_numba(Path(__file__).parent)
