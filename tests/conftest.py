"""What holds for every test: where there is no GPU, Triton interprets its kernels, and long files run first."""

import os
import signal

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton wants to know before it is first imported


# A shell without job control starts what is in its background with SIGINT ignored, nohup with SIGHUP; both are inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that start processes or are slow first, so that no process of xdist is left alone with one at the end."""
    long = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("dist")}
    items.sort(key=lambda item: item.path not in long)
