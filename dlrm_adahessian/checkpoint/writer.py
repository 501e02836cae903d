"""Write a checkpoint in the format of reader.py, and replace old ones.

Checkpoints never contain non-finite values, because runs that diverge return to them.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dlrm_adahessian.checkpoint import step_folders
from dlrm_adahessian.checkpoint.reader import DENSE, FORMAT, STATE, StoredRows
from dlrm_adahessian.checkpoint.tensor_file import Entry, is_finite, write_tensors
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.embeddings.table_shard import TableShard
from dlrm_adahessian.errors import DivergedError
from dlrm_adahessian.runs import files
from dlrm_adahessian.runs.sealed import seal, storage_errors, temporary_folder, write_json


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Contents that one rank saves.

    Attributes:
        dense: tensors of any shape by name; only the first rank's are saved.
        shards: table rows of this rank.
        state: JSON values by name; only the first rank's are saved.
    """

    dense: Mapping[str, Tensor]
    shards: Sequence[TableShard]
    state: Mapping[str, object]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all tensors with a name for messages. Several parts of a table have the same name."""
        yield from self.dense.items()
        for shard in self.shards:
            for name, tensor in shard.tensors.items():
                yield f"{shard.table}/{name}", tensor


def save(folder: Path, contents: Contents, *, step: int, fingerprint: str, keep: int = 2) -> Path:
    """Commit a checkpoint, then remove old ones. If killed at any point, the old or the new one is complete.

    A collective: all ranks call it, and if it fails on one, it fails on all.

    Args:
        folder: folder of all checkpoints of the run; no other run may write to it.
        contents: contents of this rank.
        step: number of steps done.
        fingerprint: fingerprint of the configuration that the tensors belong to (`sealed.fingerprint`).
        keep: number of checkpoints to keep, including this one; at least 1.

    Returns:
        The folder of the new checkpoint.
    """
    ranks.agreed(lambda: _require_finite(step, contents))
    draft = Draft(folder, step, fingerprint, contents.shards)
    try:
        draft.commit(lambda: draft.write(contents), keep)
    finally:
        draft.drop()
    ranks.first_does(lambda: remove_leftovers(folder))
    return draft.final


class Draft:
    """Checkpoint under a temporary name. All ranks create it, each writes its part, and all commit it."""

    def __init__(self, folder: Path, step: int, fingerprint: str, shards: Sequence[TableShard]) -> None:
        """Choose the names, and create the temporary folder on the first rank.

        Args:
            folder: folder of all checkpoints of the run.
            step: number of steps done.
            fingerprint: fingerprint of the configuration.
            shards: shards whose rows this rank will write.
        """
        self._meta = {"format": FORMAT, "fingerprint": fingerprint, "step": step}
        self._rows = [_stored_rows(index, shard) for index, shard in enumerate(shards)]

        def begin() -> list[str]:
            remove_leftovers(folder)
            with storage_errors(folder):
                # Absolute, because other ranks may have another working directory.
                final = step_folders.unused(folder, step).absolute()
                return [str(final), str(temporary_folder(final))]

        # The first rank writes the row ranges of all ranks. Collect them now, while no rank waits for the disk.
        rows = ranks.agreed(lambda: [dataclasses.asdict(part) for part in self._rows])
        self._all_rows = [part for of_rank in rows for part in of_rank]
        self.final, self._temporary = map(Path, ranks.first_does(begin))

    def write(self, contents: Contents, between: Callable[[], None] = lambda: None) -> dict[str, Entry]:
        """Write this rank's files, and flush them to disk.

        Args:
            contents: contents with the shards of this draft.
            between: called between blocks; an exception from it stops the writing.

        Returns:
            The manifest entry of each tensor file.
        """
        entries: dict[str, Entry] = {}
        with storage_errors(self.final):
            for rows, shard in zip(self._rows, contents.shards, strict=True):
                path = self._temporary / rows.file
                entries[rows.file] = write_tensors(path, shard.tensors, between=between)
            if ranks.is_first():
                entries[DENSE] = write_tensors(self._temporary / DENSE, contents.dense, between=between)
                write_json(self._temporary / STATE, {"state": contents.state, "stored": self._all_rows})
        return entries

    def commit(self, written: Callable[[], dict[str, Entry]], keep: int) -> None:
        """Seal the files of all ranks, and make the checkpoint the latest. `remove_leftovers` removes replaced ones.

        A collective: all ranks call it.

        Args:
            written: returns the result of `write` on this rank, or raises its error.
            keep: number of checkpoints to keep, including this one.
        """
        entries = {name: entry for of_rank in ranks.agreed(written) for name, entry in of_rank.items()}

        def put_in_place() -> None:
            with storage_errors(self.final):
                seal(self._temporary, self.final, self._meta, entries)
                step_folders.commit(self.final, keep)

        ranks.first_does(put_in_place)

    def drop(self) -> None:
        """Remove the uncommitted checkpoint. Call it only when no rank is writing."""
        if ranks.is_first():
            shutil.rmtree(self._temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove replaced checkpoints, and incomplete ones of killed processes."""
    with storage_errors(folder):
        files.remove_leftovers(folder)


def encode_state(step: int, state: Mapping[str, object]) -> str:
    """Return the state as JSON text. Raises a `DivergedError` if a number is not finite."""
    try:
        return json.dumps(state, allow_nan=False)
    except ValueError as error:
        raise DivergedError(refusal(step, "the state")) from error


def refusal(step: int, what: str) -> str:
    """Return the message for a checkpoint that is not saved because it is not finite."""
    return (
        f"No checkpoint saved: {what} of step {step} has non-finite values. "
        "Lower the learning rate, and resume from the previous checkpoint."
    )


def _require_finite(step: int, contents: Contents) -> None:
    for name, tensor in contents.tensors():
        if not is_finite(tensor):
            raise DivergedError(refusal(step, name))
    encode_state(step, contents.state)


def _stored_rows(index: int, shard: TableShard) -> StoredRows:
    return StoredRows(
        file=f"tables-{index * ranks.world_size() + ranks.rank():05d}.safetensors",
        table=shard.table,
        first_row=shard.first_row,
        rows=shard.rows,
        table_rows=shard.table_rows,
        first_column=shard.first_column,
        columns=None if shard.is_whole else shard.columns,
        table_columns=None if shard.is_whole else shard.table_columns,
    )
