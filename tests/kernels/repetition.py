"""A batch with each bag as often as its weight says: what weights mean, without any."""

import torch
from torch import Tensor


def repeated(rows: Tensor, bags: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat bags; what each bag has is repeated by `repeat_interleave(times, 0)`.

    Args:
        rows: (L,) int64 rows looked up.
        bags: (L,) int64, index into `times`.
        times: (N,) int64, how often each bag is to occur.

    Returns:
        Rows and bags of the lookups of all copies, in no order that a kernel for the CPU asks for.
    """
    of_lookups = times[bags]
    lookup = torch.arange(len(rows), device=rows.device).repeat_interleave(of_lookups)
    copy = torch.arange(len(lookup), device=rows.device) - (of_lookups.cumsum(0) - of_lookups)[lookup]
    return rows[lookup], (times.cumsum(0) - times)[bags[lookup]] + copy
