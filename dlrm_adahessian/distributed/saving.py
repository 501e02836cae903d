"""Write a checkpoint, as checkpoint.py describes it, and put it in the place of old ones."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from dlrm_adahessian.distributed import ranks, step_folders
from dlrm_adahessian.distributed.checkpoint import DENSE, FORMAT, STATE, StoredRows
from dlrm_adahessian.distributed.table_shard import TableShard
from dlrm_adahessian.distributed.tensor_file import write_tensors
from dlrm_adahessian.errors import DivergedError
from dlrm_adahessian.storage import sealed_folder, storage_errors, write_json


def save(
    folder: Path,
    *,
    step: int,
    fingerprint: str,
    dense: Mapping[str, Tensor],
    shards: Sequence[TableShard],
    state: Mapping[str, object],
    keep: int = 2,
) -> Path:
    """Commit a checkpoint, then remove old ones. Killed anywhere, it leaves the old or the new one whole.

    All ranks call it; it fails on all of them when it fails on one.

    Args:
        folder: the folder of all checkpoints of the run, to which no other run writes.
        step: steps done.
        fingerprint: identifies the configuration that the tensors belong to (`storage.fingerprint`).
        dense: tensors of any shape, by name; the first rank's are saved.
        shards: the table rows of this rank.
        state: JSON values, by name; the first rank's are saved.
        keep: checkpoints to keep, this one included; at least 1.

    Returns:
        The new checkpoint's folder.
    """
    ranks.agreed(lambda: _require_finite(step, dense, shards, state))
    with ExitStack() as stack:

        def begin() -> list[str]:
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                step_folders.remove_leftovers(folder)
                final = step_folders.unused(folder, step)
            meta = {"format": FORMAT, "fingerprint": fingerprint, "step": step}
            return [str(final), str(stack.enter_context(sealed_folder(final, meta)))]

        final, temporary = map(Path, ranks.first_does(begin))
        stored = ranks.agreed(lambda: _write_shards(temporary, shards))

        def commit() -> None:
            with storage_errors(final):
                write_tensors(temporary / DENSE, dense)
                ranges = [rows for of_rank in stored for rows in of_rank]
                write_json(temporary / STATE, {"state": state, "stored": ranges})
                stack.close()
                step_folders.commit(final, keep)

        ranks.first_does(commit)
    return final


def _write_shards(folder: Path, shards: Sequence[TableShard]) -> list[dict[str, Any]]:
    """Write the shards of this rank; return their `StoredRows` as JSON values."""
    stored: list[dict[str, Any]] = []
    with storage_errors(folder):
        for index, shard in enumerate(shards):
            file = f"tables-{index * ranks.world_size() + ranks.rank():05d}.safetensors"
            write_tensors(folder / file, shard.tensors)
            rows = StoredRows(
                file=file,
                table=shard.table,
                first_row=shard.first_row,
                rows=shard.rows,
                table_rows=shard.table_rows,
                first_column=shard.first_column,
                columns=None if shard.is_whole else shard.columns,
                table_columns=None if shard.is_whole else shard.table_columns,
            )
            stored.append(dataclasses.asdict(rows))
    return stored


def _require_finite(
    step: int, dense: Mapping[str, Tensor], shards: Sequence[TableShard], state: Mapping[str, object]
) -> None:
    named = [*dense.items()]
    named += [(f"{shard.table}/{name}", tensor) for shard in shards for name, tensor in shard.tensors.items()]
    for name, tensor in named:
        # The extremes are NaN or infinite when any entry is; they cost no temporary of the table's size.
        if (
            tensor.is_floating_point()
            and tensor.numel()
            and not all(map(math.isfinite, tensor.detach().aminmax()))
        ):
            raise DivergedError(
                f"a checkpoint holds finite values only, and {name} of step {step} does not; "
                "lower the learning rate, and resume from the checkpoint before"
            )
    try:
        json.dumps(state, allow_nan=False)
    except ValueError as error:
        raise DivergedError(
            f"a checkpoint holds finite values only, and the state of step {step} does not: {error}; "
            "lower the learning rate, and resume from the checkpoint before"
        ) from error
