"""What a row costs in memory, and whether its columns can be parted; asked of the row rule itself, no table by hand."""

from dataclasses import dataclass

import torch

from dlrm_adahessian.optim.base import RowRule

SLOT = 4
"""Bytes a row of the int32 scratch with which the CPU finds the touched rows."""


@dataclass(frozen=True, kw_only=True)
class RowBytes:
    """Bytes that one row takes; exact.

    Attributes:
        weight: of the embedding itself.
        state: of what the rule keeps.
    """

    weight: int
    state: int


def row_bytes(rule: RowRule, columns: int, dtype: torch.dtype) -> RowBytes:
    """Return what a row of some columns takes under a rule."""
    row = torch.empty(1, columns, dtype=dtype, device="meta")
    return RowBytes(weight=row.nbytes, state=sum(tensor.nbytes for tensor in rule.new_state(row).values()))


def mixes_columns(rule: RowRule) -> bool:
    """Whether a rule takes a mean over the entries of a row, so that a part of the columns cannot be updated alone."""
    # It keeps such a mean as a real number a row. Counters are integers, the same in every part.
    state = rule.new_state(torch.empty(1, 2, device="meta"))
    return any(tensor.dim() == 1 and tensor.is_floating_point() for tensor in state.values())
