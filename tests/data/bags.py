"""Convert bags from and to plain lists."""

from collections.abc import Sequence

import numpy as np

from dlrm_adahessian.data.rows import Bags, offsets_of


def bags_of(lists: Sequence[Sequence[int]]) -> Bags:
    return Bags(
        values=np.array([value for row in lists for value in row], np.int32),
        offsets=offsets_of(np.array([len(row) for row in lists], np.int64)),
    )


def lists_of(bags: Bags) -> list[list[int]]:
    assert (bags.offsets[0], bags.offsets[-1]) == (0, len(bags.values))
    assert bags.offsets.dtype == np.int64
    assert (bags.lengths >= 0).all()
    return [bags.values[a:z].tolist() for a, z in zip(bags.offsets, bags.offsets[1:], strict=False)]
