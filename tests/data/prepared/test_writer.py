"""Compare the files of prepared data with NumPy and with the vocabulary's oracle."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dlrm_adahessian.data.criteo.columns import COLUMN_NAMES, CRITEO, CriteoBlock
from dlrm_adahessian.data.prepared.writer import write_prepared
from dlrm_adahessian.errors import DataError
from tests.data.oracle import random_block
from tests.data.prepared.test_vocabulary import expected_ids


def pieces(block: CriteoBlock, size: int) -> Iterator[CriteoBlock]:
    for first in range(0, len(block), size):
        part = slice(first, first + size)
        yield CriteoBlock(
            labels=block.labels[part],
            integers=block.integers[part],
            tokens=block.tokens[part],
            missing=block.missing[part],
            probability=None if block.probability is None else block.probability[part],
        )


def load(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)


@pytest.mark.parametrize("probability", [False, True])
@pytest.mark.parametrize("size", [1, 97, 5000])
def test_files_hold_the_rows(size: int, probability: bool, tmp_path: Path) -> None:
    block = random_block(np.random.default_rng(size), 700, distinct=60, probability=probability)
    counted: dict[str, int] = {}

    def advance(stage: str, rows: int) -> None:
        counted[stage] = counted.get(stage, 0) + rows

    found = write_prepared(pieces(block, size), tmp_path, CRITEO, min_count=4, advance=advance)
    ids, heights = expected_ids(block, 600, 4)
    absent = block.missing[:, None] >> np.arange(39, dtype=np.uint64) & np.uint64(1)
    assert found == {
        "rows": 700,
        "split": {"train": [0, 600], "test": [600, 650], "val": [650, 700]},
        "num_rows": heights,
        "missing": dict(zip(COLUMN_NAMES[1:], absent.sum(axis=0).tolist(), strict=True)),
        "schema": CRITEO.asdict(),
    }
    assert counted == {"read": 700, "encode": 700}
    dense = np.log1p(np.maximum(block.integers, 0).astype(np.float64))
    assert (load(tmp_path, "labels") == block.labels).all()
    assert load(tmp_path, "labels").dtype == np.int8
    assert np.allclose(load(tmp_path, "dense"), dense, rtol=2**-23, atol=0)
    assert load(tmp_path, "dense").dtype == np.float32
    assert (load(tmp_path, "ids") == ids).all()
    assert load(tmp_path, "ids").dtype == np.int32
    names = {path.name for path in tmp_path.iterdir()}
    assert ("truth.npy" in names) == probability
    if probability:
        assert (load(tmp_path, "truth") == block.probability).all()
    assert len(names) == 6 + probability, "labels, dense, ids, and three files of the vocabulary"


@pytest.mark.parametrize("rows", [0, 13])
def test_too_few_rows_are_refused(rows: int, tmp_path: Path) -> None:
    block = random_block(np.random.default_rng(0), rows, distinct=5)
    with pytest.raises(DataError, match=f"Found {rows} valid samples; at least 14 are required"):
        write_prepared(pieces(block, 5), tmp_path, CRITEO, min_count=1)


def test_probability_of_some_rows_only_is_refused(tmp_path: Path) -> None:
    blocks = [random_block(np.random.default_rng(0), 20, distinct=5, probability=p) for p in (False, True)]
    with pytest.raises(ValueError, match="truth must be given for all samples or none, got 20 of 40"):
        write_prepared(iter(blocks), tmp_path, CRITEO, min_count=1)


def test_error_of_the_reader_reaches_the_writer(tmp_path: Path) -> None:
    def failing() -> Iterator[CriteoBlock]:
        yield random_block(np.random.default_rng(0), 20, distinct=5)
        raise DataError("line 21 is bad")

    with pytest.raises(DataError, match="line 21"):
        write_prepared(failing(), tmp_path, CRITEO, min_count=1)
