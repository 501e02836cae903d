"""Initial embedding rows: uniform in [-1/sqrt(R), 1/sqrt(R)) for R rows, as facebookresearch/dlrm has them.

A row's values depend on the seed, the table's index and the row alone, not on other tables, on the shard
that holds it, on the device or the number of threads. Rows are drawn in blocks, each from its own generator,
so that a shard can begin anywhere and a large table is drawn by all cores.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

_BLOCK_ROWS = 1 << 15  # 2 MB of float32 at D = 16: stays in the cache between drawing, scaling and copying


def fill_uniform_(
    shard: Tensor,
    *,
    first_row: int,
    num_rows: int,
    seed: int,
    table: int,
    first_column: int = 0,
    dim: int | None = None,
) -> None:
    """Fill a rectangle of one table.

    Args:
        shard: (N, C), the rows `first_row` up to `first_row + N` and columns `first_column` up to `first_column + C`.
        first_row: in [0, num_rows).
        num_rows: R, rows of the whole table.
        seed: of the run, not negative.
        table: index of the table, not negative.
        first_column: in [0, D).
        dim: D, columns of the whole table; None where the shard has them all.
    """
    bound = num_rows**-0.5
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
        values.mul_(2 * bound).sub_(bound)
        a, z = max(first, first_row), min(first + rows, last_row)
        shard[a - first_row : z - first_row].copy_(values[a - first : z - first, columns])

    blocks = range(first_row // _BLOCK_ROWS, -(-last_row // _BLOCK_ROWS))
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        list(pool.map(fill_block, blocks))
