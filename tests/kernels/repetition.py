"""Repeat each bag of a batch by its weight, which defines what weights mean."""

import torch
from torch import Tensor


def repeated(rows: Tensor, bags: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat bags. Use `repeat_interleave(times, 0)` to repeat the tensors of each bag.

    Args:
        rows: (L,) int64 rows looked up.
        bags: (L,) int64, index into `times`.
        times: (N,) int64, how often to repeat each bag.

    Returns:
        Rows and bags of the lookups of all copies. They are not sorted as the CPU kernel requires.
    """
    of_lookups = times[bags]
    lookup = torch.arange(len(rows), device=rows.device).repeat_interleave(of_lookups)
    copy = torch.arange(len(lookup), device=rows.device) - (of_lookups.cumsum(0) - of_lookups)[lookup]
    return rows[lookup], (times.cumsum(0) - times)[bags[lookup]] + copy
