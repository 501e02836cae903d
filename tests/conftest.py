"""Settings of all tests: Triton interprets kernels if there is no GPU, and long files run first."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it at import


# Shells without job control start background jobs with SIGINT ignored, and nohup ignores SIGHUP. Children inherit both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute in one thread: on tiny tensors threads that wait for each other cost several times the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow files, and those that start processes, first. Otherwise one xdist worker may run alone at the end."""
    long = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("dist")}
    items.sort(key=lambda item: item.path not in long)
