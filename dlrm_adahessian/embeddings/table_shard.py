"""Define the shard of a table on one rank, the unit of lookup, update, and checkpoint, and initialize its rows.

As in facebookresearch/dlrm, initial values are uniform in [-1/sqrt(R), 1/sqrt(R)) for R rows. The values of a row depend
only on the seed, the index of the table, and the row number: not on other tables, shards, the device, or the number of
threads. Each block of rows has its own generator. A shard can therefore begin at any row, and all cores initialize a large
table together.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

_BLOCK_ROWS = (
    1 << 15
)  # 2 MB of float32 at D = 16, which stays in the cache while it is generated, scaled, and copied


@dataclass(frozen=True, kw_only=True)
class TableShard:
    """Hold consecutive rows of one table, with all or some of their columns, and their optimizer state.

    Attributes:
        table: name of the table.
        first_row: table row of row 0 of the tensors.
        table_rows: number of rows of the whole table.
        tensors: `weight` (r, c) and the optimizer states (r, c) or (r,), by name, all with the same r and c.
        first_column: table column of column 0 of the tensors.
        table_columns: D, number of columns of the whole table; None if the tensors have all columns.
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
            raise ValueError(
                f"All tensors of a shard must have the same number of rows, got {lengths} for {self.table}."
            )

    @property
    def rows(self) -> int:
        """Number of rows in this shard."""
        return len(next(iter(self.tensors.values())))

    @property
    def columns(self) -> int:
        """Number of columns in this shard."""
        return self.tensors["weight"].shape[1]

    def among(self, table_rows: int, names: Sequence[str]) -> "TableShard":
        """Return a shard of the table truncated to `table_rows` rows, with only the tensors in `names`."""
        rows = max(0, table_rows - self.first_row)
        tensors = {name: self.tensors[name][:rows] for name in names}
        return replace(self, table_rows=table_rows, tensors=tensors)

    @property
    def is_whole(self) -> bool:
        """Whether the shard has all columns of the table."""
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
        shard: (N, C), rows `first_row` to `first_row + N - 1` and columns `first_column` to `first_column + C - 1`.
        first_row: in [0, num_rows).
        num_rows: R, number of rows of the whole table.
        seed: seed of the run, at least 0.
        table: index of the table, at least 0.
        first_column: in [0, D).
        dim: D, number of columns of the whole table; None if the shard has all columns.
        bound: b for values uniform in [-b, b); None for 1 / sqrt(R), as in DLRM.
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
