"""What one rank holds of a table: the unit that is looked up in, updated and saved; and its initial rows.

They are uniform in [-1/sqrt(R), 1/sqrt(R)) for R rows, as facebookresearch/dlrm has them. A row's values depend on the seed,
the table's index and the row alone, not on other tables, on the shard that holds it, on the device or the number of
threads. Rows are drawn in blocks, each from its own generator, so that a shard can begin anywhere and a large table is drawn
by all cores.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

_BLOCK_ROWS = 1 << 15  # 2 MB of float32 at D = 16: stays in the cache between drawing, scaling and copying


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

    def among(self, table_rows: int, names: Sequence[str]) -> "TableShard":
        """Return some tensors of the rows that a table of so many rows has too, as a shard of that table."""
        rows = max(0, table_rows - self.first_row)
        tensors = {name: self.tensors[name][:rows] for name in names}
        return replace(self, table_rows=table_rows, tensors=tensors)

    @property
    def is_whole(self) -> bool:
        """Whether it has all columns of its rows."""
        return self.table_columns is None or self.columns == self.table_columns


def fill_uniform_(
    shard: Tensor,
    *,
    first_row: int,
    num_rows: int,
    seed: int,
    table: int,
    first_column: int = 0,
    dim: int | None = None,
    bound: float | None = None,
) -> None:
    """Fill a rectangle of one table with uniform values.

    Args:
        shard: (N, C), the rows `first_row` up to `first_row + N` and columns `first_column` up to `first_column + C`.
        first_row: in [0, num_rows).
        num_rows: R, rows of the whole table.
        seed: of the run, not negative.
        table: index of the table, not negative.
        first_column: in [0, D).
        dim: D, columns of the whole table; None where the shard has them all.
        bound: of the values' magnitude; None for 1 / sqrt(R), as DLRM has it.
    """
    largest = num_rows**-0.5 if bound is None else bound
    last_row = first_row + len(shard)
    dim = shard.shape[1] if dim is None else dim
    columns = slice(first_column, first_column + shard.shape[1])

    def fill_block(block: int) -> None:
        first = block * _BLOCK_ROWS
        rows = min(_BLOCK_ROWS, num_rows - first)
        generator = np.random.Generator(
            np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(table, block)))
        )
        values = torch.from_numpy(generator.random((rows, dim), dtype=np.float32))
        values.mul_(2 * largest).sub_(largest)
        a, z = max(first, first_row), min(first + rows, last_row)
        shard[a - first_row : z - first_row].copy_(values[a - first : z - first, columns])

    blocks = range(first_row // _BLOCK_ROWS, -(-last_row // _BLOCK_ROWS))
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        list(pool.map(fill_block, blocks))
