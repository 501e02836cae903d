"""Run these tests on one thread. The tensors are tiny, and waiting for other threads costs several times the work."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def small_tensors(one_thread):
    """Compute in one thread."""
