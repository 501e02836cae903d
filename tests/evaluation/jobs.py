"""Two small models on generated samples, trained once for all tests that evaluate them."""

import json
from functools import cache

import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.text import format_rows
from dlrm_adahessian.data.synthetic.generator import row_blocks

SMALL = ["--model.bottom", "16", "--model.top", "16", "--batch-size", "128", "--baseline", "none"]
ROWS = 6000


@cache
def _trained(base):
    folder = base / "evaluation"
    folder.mkdir()
    text = b"".join(map(format_rows, row_blocks(SyntheticConfig(), ROWS)))
    (folder / "rows.txt").write_bytes(text)
    for name, min_count in (("hybrid", "2"), ("adagrad", "5")):
        settings = ["--optimizer", name, "--data.min-count", min_count, "--checkpoint-every", "15"]
        where = [
            "--data-path",
            folder / "rows.txt",
            "--data.cache-dir",
            folder / "cache",
            "--out",
            folder / name,
        ]
        assert main(list(map(str, ["train", *where, *SMALL, *settings]))) == 0
    return folder


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Return a folder with samples as text, and two runs that were trained with different vocabularies."""
    return _trained(tmp_path_factory.getbasetemp())


@pytest.fixture
def evaluate(place, capsys):
    def call(*arguments, code=0):
        capsys.readouterr()
        found = main(["evaluate", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert found == code, err
        return out if code == 0 else err

    return call


@pytest.fixture
def both(place, evaluate):
    def call(*more):
        runs = ["--run", place / "hybrid", place / "adagrad"]
        return json.loads(
            evaluate(
                *runs, "--data-path", place / "rows.txt", "--out", place / "both.parquet", "--json", *more
            )
        )

    return call
