"""Write a checkpoint, as reader.py describes it, and put it in the place of old ones.

Nothing that is not finite is ever saved: a checkpoint is what a run falls back to.
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
    """What one rank has to save.

    Attributes:
        dense: tensors of any shape, by name; the first rank's are saved.
        shards: the table rows of this rank.
        state: JSON values, by name; the first rank's are saved.
    """

    dense: Mapping[str, Tensor]
    shards: Sequence[TableShard]
    state: Mapping[str, object]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all tensors with a name for messages, which several parts of a table share."""
        yield from self.dense.items()
        for shard in self.shards:
            for name, tensor in shard.tensors.items():
                yield f"{shard.table}/{name}", tensor


def save(folder: Path, contents: Contents, *, step: int, fingerprint: str, keep: int = 2) -> Path:
    """Commit a checkpoint, then remove old ones. Killed anywhere, it leaves the old or the new one whole.

    All ranks call it; it fails on all of them when it fails on one.

    Args:
        folder: the folder of all checkpoints of the run, to which no other run writes.
        contents: what this rank has to save.
        step: steps done.
        fingerprint: identifies the configuration that the tensors belong to (`sealed.fingerprint`).
        keep: checkpoints to keep, this one included; at least 1.

    Returns:
        The new checkpoint's folder.
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
    """A checkpoint under a temporary name; all ranks make it, each writes its part, and all commit it."""

    def __init__(self, folder: Path, step: int, fingerprint: str, shards: Sequence[TableShard]) -> None:
        """Choose the names, and make the temporary folder on the first rank.

        Args:
            folder: of all checkpoints of the run.
            step: steps done.
            fingerprint: identifies the configuration.
            shards: whose rows this rank will write.
        """
        self._meta = {"format": FORMAT, "fingerprint": fingerprint, "step": step}
        self._rows = [_stored_rows(index, shard) for index, shard in enumerate(shards)]

        def begin() -> list[str]:
            remove_leftovers(folder)
            with storage_errors(folder):
                # Ranks in other working folders write there too.
                final = step_folders.unused(folder, step).absolute()
                return [str(final), str(temporary_folder(final))]

        # All ranks' row ranges travel here, while nobody waits for the disk: the first rank writes them.
        rows = ranks.agreed(lambda: [dataclasses.asdict(part) for part in self._rows])
        self._all_rows = [part for of_rank in rows for part in of_rank]
        self.final, self._temporary = map(Path, ranks.first_does(begin))

    def write(self, contents: Contents, between: Callable[[], None] = lambda: None) -> dict[str, Entry]:
        """Write this rank's files, and flush them to disk.

        Args:
            contents: with the shards that the draft was made for.
            between: called between blocks; what it raises ends the writing.

        Returns:
            What the manifest says of each file of tensors.
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
        """Seal what all ranks wrote, and make it the latest; those that it replaces are left to `remove_leftovers`.

        All ranks call it.

        Args:
            written: returns what `write` returned on this rank, or raises what it raised.
            keep: checkpoints to keep, this one included.
        """
        entries = {name: entry for of_rank in ranks.agreed(written) for name, entry in of_rank.items()}

        def put_in_place() -> None:
            with storage_errors(self.final):
                seal(self._temporary, self.final, self._meta, entries)
                step_folders.commit(self.final, keep)

        ranks.first_does(put_in_place)

    def drop(self) -> None:
        """Remove what was not committed; it is called when no rank writes any more."""
        if ranks.is_first():
            shutil.rmtree(self._temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what was replaced, and what a killed process was writing."""
    with storage_errors(folder):
        files.remove_leftovers(folder)


def encode_state(step: int, state: Mapping[str, object]) -> str:
    """Return the state as JSON text; `DivergedError` where a number in it is not finite."""
    try:
        return json.dumps(state, allow_nan=False)
    except ValueError as error:
        raise DivergedError(refusal(step, "the state")) from error


def refusal(step: int, what: str) -> str:
    """Return why a checkpoint is not taken."""
    return (
        f"a checkpoint holds finite values only, and {what} of step {step} does not; "
        "lower the learning rate, and resume from the checkpoint before"
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
