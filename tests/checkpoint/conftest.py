from pathlib import Path

import pytest

from tests.checkpoints import save_seed


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The folder of two checkpoints: seed 1 at step 100, seed 2 at step 200."""
    folder = tmp_path / "checkpoints"
    save_seed(folder, 1)
    save_seed(folder, 2)
    return folder
