from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.checkpoints import save_seed


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Folder with two checkpoints: seed 1 at step 100, seed 2 at step 200."""
    folder = tmp_path / "checkpoints"
    save_seed(folder, 1)
    save_seed(folder, 2)
    return folder


@pytest.fixture(scope="session")
def light() -> Iterator[ProcessPoolExecutor]:
    """Process that has imported only what attacked.py needs."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield pool
