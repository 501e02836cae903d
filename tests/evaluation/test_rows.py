"""Blocks of rows as evaluation scores them."""

from itertools import pairwise

import numpy as np
import pytest

from dlrm_adahessian.evaluation.rows import regrouped


@pytest.mark.parametrize("sizes", [(3,), (5, 5), (1, 0, 13, 2), (20,), ()])
def test_rows_are_regrouped_whole_and_in_order(sizes):
    total = sum(sizes)
    rows = (np.arange(total, dtype=np.int8), np.arange(total * 2.0).reshape(-1, 2), np.arange(total)[:, None])
    cuts = np.cumsum((0, *sizes))
    blocks = [tuple(part[a:b] for part in rows) for a, b in pairwise(cuts)]
    found = list(regrouped(iter(blocks), 5))
    assert [len(block[0]) for block in found] == [5] * (total // 5) + ([total % 5] if total % 5 else [])
    for whole, parts in zip(rows, zip(*found, strict=True), strict=False):
        np.testing.assert_array_equal(np.concatenate(parts), whole)
