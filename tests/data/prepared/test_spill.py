"""Spilled columns are read back unchanged."""

from pathlib import Path

import numpy as np

from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.prepared.spill import Spill
from dlrm_adahessian.data.rows import Bags, ColumnBlock, missing_words, offsets_of
from dlrm_adahessian.data.schema import from_dict
from tests.data.oracle import random_block
from tests.data.prepared.test_writer import pieces


def test_tokens_are_spilled_and_read_back(tmp_path: Path) -> None:
    block = random_block(np.random.default_rng(0), 70_000, distinct=40)  # more than one piece
    spill = Spill(tmp_path / "spill", CRITEO)
    for part in pieces(block, 69_994):
        spill.append(part)
    spill.close()
    spill.close()
    for rows in (1, 66_000, 70_000):
        tokens, missing = map(np.concatenate, zip(*spill.blocks(rows), strict=True))
        assert (tokens == block.tokens[:rows]).all()
        assert (missing == block.missing[:rows, None]).all()
        assert (np.concatenate(list(spill.column(25, rows))) == block.tokens[:rows, 25]).all()
        absent = block.missing[:rows, None] >> np.arange(39, dtype=np.uint64) & np.uint64(1)
        assert (spill.missing_counts(rows) == absent.sum(axis=0)).all()
    spill.remove()
    assert not (tmp_path / "spill").exists()


def test_bags_values_to_standardize_and_many_columns_are_spilled(tmp_path: Path) -> None:
    """With 90 columns, the bits from the 65th on are in a second word."""
    schema = from_dict(
        {
            "label": {"column": "y"},
            "dense": [
                {"column": f"x{i}", "transform": "standardize" if i % 2 else "none"} for i in range(60)
            ],
            "tokens": [{"column": f"t{i}"} for i in range(30)],
            "bags": [{"column": "b"}, {"column": "c"}],
        }
    )
    rng, rows = np.random.default_rng(1), 300
    absent = rng.random((rows, 90)) < rng.random(90) / 2
    bags = []
    for most in (4, 60):
        offsets = offsets_of(rng.integers(0, most, rows))
        bags.append(Bags(values=rng.integers(0, 1 << 63, offsets[-1], np.uint64), offsets=offsets))
    values = np.where(absent[:, :60], np.nan, rng.normal(size=(rows, 60)))
    tokens = np.where(absent[:, 60:], 0, rng.integers(0, 1 << 63, (rows, 30))).astype(np.uint64)
    spill = Spill(tmp_path / "spill", schema)
    for part in (slice(0, 299), slice(299, 300)):
        spill.append(
            ColumnBlock(
                schema=schema,
                labels=np.zeros(len(range(rows)[part]), np.int8),
                values=values[part],
                tokens=tokens[part],
                missing=missing_words(absent[part]),
                bags=[each[part] for each in bags],
            )
        )
    spill.close()
    assert (spill.missing_counts(250) == absent[:250].sum(axis=0)).all()
    np.testing.assert_array_equal(np.concatenate(list(spill.unscaled(250))), values[:250, 1::2])
    for place, each in enumerate(bags):
        assert (np.concatenate(list(spill.column(30 + place, 250))) == each[:250].values).all()
        assert (np.concatenate(list(spill.lengths(place, 250))) == each[:250].lengths).all()
