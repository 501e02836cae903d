"""Read checkpoints: folders of safetensors and JSON files, never pickles. writer.py writes them.

    checkpoints/
      step-00000123/
        dense.safetensors         tensors that every rank holds: parameters, optimizer state, generators
        tables-00000.safetensors  consecutive rows of one table with their optimizer states; one file per shard
        state.json                the trainer's other values, and the row range of each shard
        manifest.json             size and xxh3_128 of each file, format, fingerprint of the configuration
      latest                      the name of the folder committed last

Tables are stored by row range, so a different number of ranks can read the rows that it needs. With several ranks, each
writes its own shards into a shared folder, and the first also writes the other files. When all have written, the first rank
seals and commits the checkpoint.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydantic
from safetensors import SafetensorError
from torch import Tensor

from dlrm_adahessian.checkpoint import step_folders
from dlrm_adahessian.checkpoint.tensor_file import Piece, entries_of
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.embeddings.table_shard import TableShard
from dlrm_adahessian.errors import CheckpointError, LockedError
from dlrm_adahessian.model.config import Architecture
from dlrm_adahessian.runs.run_directory import LOCK
from dlrm_adahessian.runs.sealed import (
    MANIFEST,
    DamagedFolderError,
    file_digest,
    locked_by_another,
    read_sealed,
    storage_errors,
)
from dlrm_adahessian.runtime.launcher import is_first_here

logger = logging.getLogger(__name__)

FORMAT = 1
DENSE = "dense.safetensors"
STATE = "state.json"
LOOKS = 10
"""Number of attempts to find a checkpoint if a run replaces it during reading."""
_STRICT = pydantic.ConfigDict(strict=True, extra="forbid")


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_STRICT)
class StoredRows:
    """The rows in one file of a checkpoint. Fields are those of `TableShard`; columns only for column shards."""

    file: str
    table: str
    first_row: int
    rows: int
    table_rows: int
    first_column: int = 0
    columns: int | None = None
    table_columns: int | None = None


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_STRICT)
class _Contents:
    """The contents of `state.json`."""

    state: dict[str, Any]
    stored: list[StoredRows]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose bytes were all verified.

    Attributes:
        path: folder of the checkpoint.
        step: number of steps done when it was saved.
        state: values of the trainer other than tensors.
        stored: row ranges in its files.
        digest: xxh3_128 of the manifest, which contains those of all files.
    """

    path: Path
    step: int
    digest: str
    state: dict[str, Any]
    stored: Sequence[StoredRows]

    @property
    def table_rows(self) -> Mapping[str, int]:
        """Number of rows of each table."""
        return {rows.table: rows.table_rows for rows in self.stored}

    def restore_(
        self, dense: Mapping[str, Tensor], shards: Sequence[TableShard], *, partly: bool = False
    ) -> None:
        """Copy the checkpoint into the given tensors in place. If anything does not fit, nothing is copied.

        Args:
            dense: tensors with the saved names, shapes, and dtypes.
            shards: rows in any partition of the saved tables, with the saved tensors.
            partly: whether the checkpoint may contain other tensors, which are ignored.

        Raises:
            CheckpointError: a name, shape, dtype or row range differs from what was saved.
        """
        pieces = [Piece(path=self.path / DENSE, owner="dense", rows=None, targets=dense)]
        for shard in shards:
            pieces += self._pieces(shard)
        pieces = [replace(piece, partly=partly) for piece in pieces]
        try:
            for piece in pieces:
                piece.check()
            for piece in pieces:
                piece.copy_()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(_refusal(self.path, f"{self.path} cannot be read: {error}")) from error

    def require_sizes_of(self, model: Architecture, schema: Schema, num_rows: Sequence[int]) -> None:
        """Check that the files contain as many numbers as the model, before allocating memory for the model.

        Args:
            model: settings of the dense part.
            schema: schema of the data.
            num_rows: number of rows of each table.

        Raises:
            CheckpointError: the files contain fewer numbers.
        """
        expected = {"dense part": model.parameters(len(schema.dense), len(num_rows))}
        for name, rows in zip(schema.features, num_rows, strict=True):
            expected[f"table {name}"] = rows * model.embedding_dim
        found = dict.fromkeys(expected, 0)
        try:
            found["dense part"] = entries_of(self.path / DENSE, "parameters")
            for part in self.stored:
                if (table := f"table {part.table}") in found:
                    found[table] += entries_of(self.path / part.file, "weight")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(_refusal(self.path, f"{self.path} cannot be read: {error}")) from error
        for what, size in expected.items():
            if found[what] < size:
                raise CheckpointError(
                    f"The checkpoint does not fit the model: the {what} has {size:,} numbers, but {self.path} has "
                    f"{found[what]:,}. Resume with the configuration that saved it."
                )

    def _pieces(self, shard: TableShard) -> Iterator[Piece]:
        parts = [
            part
            for part in self.stored
            if (part.table, part.table_rows) == (shard.table, shard.table_rows)
            and part.table_columns in (None, shard.table_columns or shard.columns)
        ]
        column, end = shard.first_column, shard.first_column + shard.columns
        for first, width in sorted({(part.first_column, part.columns or end) for part in parts}):
            stop = min(end, first + width)
            if not first <= column < stop:
                continue
            strip = [part for part in parts if part.first_column == first]
            # Whole rows are read whole, which distinguishes a table of another width from a part of this one.
            whole = shard.is_whole and strip[0].columns is None
            yield from self._strip(shard, strip, None if whole else slice(column, stop))
            column = stop
        if column < end:
            yield from self._strip(shard, [], None)

    def _strip(
        self, shard: TableShard, parts: Sequence[StoredRows], columns: slice | None
    ) -> Iterator[Piece]:
        """Yield the pieces that fill some columns of a shard, given as columns of the table; None for whole rows."""
        row, end = shard.first_row, shard.first_row + shard.rows
        for part in sorted(parts, key=lambda part: part.first_row):
            stop = min(end, part.first_row + part.rows)
            if not part.first_row <= row < stop:
                continue
            wanted = slice(row - shard.first_row, stop - shard.first_row)
            yield Piece(
                path=self.path / part.file,
                owner=f"table {shard.table}",
                rows=slice(row - part.first_row, stop - part.first_row),
                columns=columns and _moved(columns, part.first_column),
                targets={
                    name: tensor[wanted, _moved(columns, shard.first_column)]
                    if columns and tensor.dim() == 2
                    else tensor[wanted]
                    for name, tensor in shard.tensors.items()
                },
            )
            row = stop
        if row < end:
            raise CheckpointError(
                f"{self.path} lacks rows {row:,} to {end:,} of table {shard.table} with {shard.table_rows:,} rows. "
                "Resume with the configuration that saved it."
            )


def load(path: Path, *fingerprints: str) -> Checkpoint:
    """Verify one checkpoint.

    Args:
        path: folder of the checkpoint.
        fingerprints: accepted fingerprints of configurations; the first is that of the run.

    Returns:
        The checkpoint; `restore_` reads its tensors.

    Raises:
        CheckpointError: the checkpoint is damaged, has another format, or belongs to another configuration.
    """
    try:
        return _verified(path, fingerprints)
    except DamagedFolderError as error:
        raise CheckpointError(_refusal(path, str(error))) from error


def load_newest_good(folder: Path, *fingerprints: str) -> Checkpoint | None:
    """Load the newest valid checkpoint, and warn about each newer one that is not valid.

    A collective: the first rank chooses and verifies a checkpoint for all ranks. On every other machine, one rank verifies
    the files that it sees.

    Args:
        folder: folder of all checkpoints of the run; may be missing.
        fingerprints: see `load`.

    Returns:
        The checkpoint, or None if there are no checkpoints. Raises a `CheckpointError` if none of them is valid, and a
        `LockedError` if the run replaces them faster than they can be read.
    """
    found = ranks.first_does(lambda: _newest_good(folder, fingerprints), patient=True)
    if found is None:
        return None
    path, step = Path(found[0]), found[1]
    verifies = is_first_here() and not ranks.is_first()
    _, opened = ranks.all_open(lambda: (None, load(path, *fingerprints) if verifies else _opened(path, step)))
    return opened


def _newest_good(folder: Path, fingerprints: Sequence[str]) -> tuple[str, int] | None:
    """Return the absolute folder and the step of the newest valid checkpoint."""
    for _ in range(LOOKS):
        refusals: list[CheckpointError] = []
        with storage_errors(folder):
            paths = step_folders.newest_first(folder)
        for path in paths:
            try:
                return str(path.absolute()), load(path, *fingerprints).step
            except CheckpointError as error:
                if not path.exists():  # the run replaced it during reading
                    break
                logger.warning("Skipped a checkpoint: %s", error)
                refusals.append(error)
        else:
            if refusals:
                raise CheckpointError(
                    f"None of {len(refusals)} checkpoints is valid. The newest: {refusals[0]}"
                )
            return None
    raise replaced(folder)


def replaced(folder: Path) -> LockedError:
    """Return the error for a checkpoint that a run replaced on every attempt to read it."""
    return LockedError(
        f"The run that trains in {folder} replaced its checkpoint during {LOOKS} attempts to read it. Wait until the run is "
        "done, or make it save less often with --checkpoint-every or --eval-every."
    )


def latest(folder: Path) -> Path | None:
    """Return the folder of the newest checkpoint without verifying it, or None if there is none."""
    with storage_errors(folder):
        return next(iter(step_folders.newest_first(folder)), None)


def _verified(path: Path, fingerprints: Sequence[str]) -> Checkpoint:
    manifest = read_sealed(path)
    found, owner, step = (manifest.get(key) for key in ("format", "fingerprint", "step"))
    if found != FORMAT:
        raise CheckpointError(
            f"{path} has format {found!r}, but this version reads {FORMAT}. "
            "Resume with the version that wrote it."
        )
    if owner not in fingerprints:
        raise CheckpointError(
            f"{path} belongs to configuration {owner!r}, but this run has {fingerprints[0]!r}. "
            "Resume with the flags and the configuration file of the first start."
        )
    if not isinstance(step, int) or step_folders.step_of(path) != step:
        raise DamagedFolderError(f"{path} contains step {step!r}, which differs from its name")
    found = _opened(path, step)
    if {DENSE, STATE, *(rows.file for rows in found.stored)} != set(manifest["files"]):
        raise DamagedFolderError(f"{path} contains other files than its {STATE} lists")
    return found


def _opened(path: Path, step: int) -> Checkpoint:
    """Read the state of a checkpoint without verifying its files."""
    try:
        contents = pydantic.TypeAdapter(_Contents).validate_json((path / STATE).read_bytes())
        digest = file_digest(path / MANIFEST)
    except (OSError, pydantic.ValidationError) as error:
        raise DamagedFolderError(f"{path / STATE} is not a valid checkpoint state: {error}") from error
    return Checkpoint(path=path, step=step, digest=digest, state=contents.state, stored=contents.stored)


def _moved(columns: slice, first: int) -> slice:
    """Return columns of a table relative to a part that begins at column `first`."""
    return slice(columns.start - first, columns.stop - first)


def _refusal(path: Path, reason: str) -> str:
    run = path.parent.parent
    if locked_by_another(run / LOCK):
        return (
            f"{reason}. Another process is training in {run} and replaces its checkpoints. Do not change them; pass the run "
            "folder to use the newest one."
        )
    return (
        f"{reason}. Damaged checkpoints cannot be used in part. Remove {path} to use the one before it, "
        "or start again with another --out."
    )
