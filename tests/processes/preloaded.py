"""Modules preloaded by the server that forks ranks: the whole program, with one thread per rank, as under torchrun.

Commands import pandas, SciPy and TensorBoard, and numba reads its registries at the first compilation. That takes longer
than a small run.

The kernels normally start numba's threads at import, which a process forked later cannot use. So this module does not start
them.
"""

import gc
import logging
import os
from contextlib import suppress
from unittest import mock

os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

with mock.patch("numba.get_num_threads", return_value=1):
    import numba
    import pandas  # noqa: F401
    import pytest  # noqa: F401 - with the modules of tests that ranks run
    import scipy.optimize  # noqa: F401
    from safetensors import torch

    import dlrm_adahessian.commands.train  # noqa: F401
    import dlrm_adahessian.train.with_baseline  # noqa: F401

    with suppress(ImportError):  # of the extra tensorboard
        import torch.utils.tensorboard  # noqa: F401

    numba.njit(lambda: 0)()

logging.getLogger().handlers.clear()  # handlers of libraries, normally imported after the program sets up logging
gc.collect()  # otherwise each process would soon look through all of it, and so copy it
