from collections.abc import Iterator
from pathlib import Path

import pytest

from dlrm_adahessian.data.text.bad_lines import BadLines


@pytest.fixture
def aside(tmp_path: Path) -> Iterator[BadLines]:
    """Return bad lines that are written to a file."""
    lines = BadLines(tmp_path / "rejects.tsv")
    yield lines
    lines.close()
