"""What the server that ranks are forked from has imported: the whole program, with one thread a rank, as under torchrun.

The kernels ask numba for its threads when they are imported. That starts them, and a process that was forked after that may
not use them; so here numba is not asked.
"""

import logging
import os
from unittest import mock

os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

with mock.patch("numba.get_num_threads", return_value=1):
    import pytest  # noqa: F401 - with the modules of tests that ranks run
    from safetensors import torch  # noqa: F401

    import dlrm_adahessian.train.with_baseline  # noqa: F401

logging.getLogger().handlers.clear()  # the libraries', which come before the program's own only here
