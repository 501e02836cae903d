"""What one rank holds of a table: the unit that is looked up in, updated and saved."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TableShard:
    """Consecutive rows of one table, all their columns or some, and what belongs to each row.

    Attributes:
        table: name of the table.
        first_row: the row of the table that is row 0 of the tensors.
        table_rows: rows of the whole table.
        tensors: `weight` (r, c) and the rule's row states (r, c) or (r,), by name, all with the same r and c.
        first_column: the column of the table that is column 0 of the tensors.
        table_columns: D, columns of the whole table; None where the tensors have them all.
    """

    table: str
    first_row: int
    table_rows: int
    tensors: Mapping[str, Tensor]
    first_column: int = 0
    table_columns: int | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in self.tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"all tensors of a shard have the same rows; those of {self.table}: {lengths}")

    @property
    def rows(self) -> int:
        """Rows in this shard."""
        return len(next(iter(self.tensors.values())))

    @property
    def columns(self) -> int:
        """Columns in this shard."""
        return self.tensors["weight"].shape[1]

    @property
    def is_whole(self) -> bool:
        """Whether it has all columns of its rows."""
        return self.table_columns is None or self.columns == self.table_columns
