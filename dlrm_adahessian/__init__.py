"""Train DLRM with second-order optimizers on dense and sparse parameters."""

import os
import sys
from pathlib import Path

from dlrm_adahessian.runtime import numba_cache

__version__ = "0.1.0"

# Numba reads its number of threads when it is imported, takes all cores by itself, and tells the OpenMP that torch uses to
# do so too: ranks that torchrun gave one thread each would get in each other's way (docs/scaling.md). Once it is imported
# it refuses another number.
if "numba" not in sys.modules and (threads := os.environ.get("OMP_NUM_THREADS", "").split(",")[0]):
    os.environ.setdefault("NUMBA_NUM_THREADS", threads)

numba_cache.settle(Path(__file__).parent)
