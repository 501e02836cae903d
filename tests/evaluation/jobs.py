"""Two small models on generated samples, trained once for all tests that evaluate them."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.text import format_rows
from dlrm_adahessian.data.synthetic.generator import row_blocks

SMALL = ["--model.bottom", "16", "--model.top", "16", "--batch-size", "128", "--baseline", "none"]
ROWS = 6000
OWN = """
format = "{}"
label = {{ column = "y" }}
dense = [{{ column = "x", transform = "standardize" }}]
tokens = [{{ column = "t", min_count = 1 }}]
bags = [{{ column = "b", min_count = 1{} }}]
"""


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
    """Return a folder with samples as text, and two runs with different vocabularies."""
    return _trained(tmp_path_factory.getbasetemp())


def _own_rows(rows):
    """Return columns with missing values of each kind, and bags of 0 to 4 tokens."""
    rng = np.random.default_rng(0)
    words = np.array(["a", "b", "c, d", "e"])
    return pd.DataFrame(
        {
            "y": rng.integers(0, 2, rows),
            "x": pd.Series(rng.integers(-3, 9, rows), dtype="Int64").mask(rng.random(rows) < 0.2),
            "t": pd.Series(rng.choice(words, rows)).mask(rng.random(rows) < 0.1),
            "b": [rng.choice(words, n).tolist() for n in rng.integers(0, 5, rows)],
        }
    )


@cache
def _trained_on_own(base):
    folder = base / "own"
    folder.mkdir()
    frame = _own_rows(400)
    frame.to_parquet(folder / "rows.parquet")
    frame.assign(b=frame["b"].str.join("|")).to_csv(folder / "rows.csv", index=False)
    for form in ("csv", "parquet"):
        (folder / f"{form}.toml").write_text(OWN.format(form, ", separator = '|'" if form == "csv" else ""))
        where = [
            *("--schema", folder / f"{form}.toml", "--data-path", folder / f"rows.{form}"),
            *("--data.cache-dir", folder / "cache", "--out", folder / form),
        ]
        assert main(list(map(str, ["train", *where, *SMALL, "--optimizer", "adagrad"]))) == 0
    return folder


@pytest.fixture(scope="session")
def own(tmp_path_factory):
    """Return a folder with the same samples in rows.csv and rows.parquet, their schemas, and the runs csv and parquet."""
    return _trained_on_own(tmp_path_factory.getbasetemp())


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
