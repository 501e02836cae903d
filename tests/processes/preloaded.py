"""Modules preloaded by the server that forks ranks: the whole program, with one thread per rank, as under torchrun.

The kernels normally start numba's threads at import, which a process forked later cannot use. So this module does not start
them.
"""

import logging
import os
from unittest import mock

os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

with mock.patch("numba.get_num_threads", return_value=1):
    import pytest  # noqa: F401 - with the modules of tests that ranks run
    from safetensors import torch  # noqa: F401

    import dlrm_adahessian.train.with_baseline  # noqa: F401

logging.getLogger().handlers.clear()  # handlers of libraries, normally imported after the program sets up logging
