"""Imported first of all by the server that ranks are forked from: each has one thread, as under torchrun."""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"
