"""What one rank holds of a table: the unit that is looked up in, updated and saved."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TableShard:
    """Consecutive rows of one table, and what belongs to each of them.

    Attributes:
        table: name of the table.
        first_row: the row of the table that is row 0 of the tensors.
        table_rows: rows of the whole table.
        tensors: `weight` (r, D) and the rule's row states (r, D) or (r,), by name, all with the same r.
    """

    table: str
    first_row: int
    table_rows: int
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in self.tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"all tensors of a shard have the same rows; those of {self.table}: {lengths}")

    @property
    def rows(self) -> int:
        """Rows in this shard."""
        return len(next(iter(self.tensors.values())))
