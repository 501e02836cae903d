"""Blocks of samples for evaluation."""

from itertools import pairwise

import numpy as np
import pytest

from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.evaluation.rows import Block, regrouped


@pytest.mark.parametrize("sizes", [(3,), (5, 5), (1, 0, 13, 2), (20,), ()])
def test_rows_are_regrouped_whole_and_in_order(sizes):
    total = sum(sizes)
    dense, ids = np.arange(total * 2.0).reshape(-1, 2), np.arange(total)[:, None]
    whole = Block(
        labels=np.arange(total, dtype=np.int8),
        file=np.arange(total) + 100,
        features=(Features(dense=dense, ids=ids), Features(dense=-dense, ids=2 * ids)),
    )
    cuts = np.cumsum((0, *sizes))
    found = list(regrouped((whole[a:b] for a, b in pairwise(cuts)), 5))
    assert [len(block) for block in found] == [5] * (total // 5) + ([total % 5] if total % 5 else [])
    for start, block in zip(range(0, total, 5), found, strict=True):
        place = np.arange(start, start + len(block))
        assert block.labels.tolist() == place.tolist()
        assert block.file.tolist() == (place + 100).tolist()
        for features, factor in zip(block.features, (1, 2), strict=True):
            assert features.ids[:, 0].tolist() == (factor * place).tolist()
        assert (block.features[0].dense == np.stack([2 * place, 2 * place + 1], 1)).all()
        assert (block.features[1].dense == -block.features[0].dense).all()
