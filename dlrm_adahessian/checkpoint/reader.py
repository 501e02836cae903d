"""Checkpoints: sealed folders of safetensors and JSON, never a pickle; here they are read, in writer.py written.

    checkpoints/
      step-00000123/
        dense.safetensors         tensors that every rank holds: parameters, optimizer state, generators
        tables-00000.safetensors  consecutive rows of one table with their row states; one file per shard
        state.json                what the trainer keeps beside tensors, and the row range of each shard
        manifest.json             size and xxh3_128 of each file, format, fingerprint of the configuration
      latest                      the name of the folder committed last

Tables are row ranges, so that another number of ranks can read the rows it owns. Of several ranks each writes its own
shards into a folder that all of them see, the first one the rest too; when all have written, it seals and commits.
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
"""How often a checkpoint that a run replaces while it is read is looked for again."""
_STRICT = pydantic.ConfigDict(strict=True, extra="forbid")


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_STRICT)
class StoredRows:
    """The rows in one file of a checkpoint; fields as in `TableShard`, the columns of a column shard only."""

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
    """What `state.json` says."""

    state: dict[str, Any]
    stored: list[StoredRows]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint of which every byte was verified.

    Attributes:
        path: its folder.
        step: steps done when it was saved.
        state: what the trainer keeps beside tensors.
        stored: the row ranges in its files.
        digest: xxh3_128 of its manifest, which has those of all files.
    """

    path: Path
    step: int
    digest: str
    state: dict[str, Any]
    stored: Sequence[StoredRows]

    @property
    def table_rows(self) -> Mapping[str, int]:
        """The height of each table."""
        return {rows.table: rows.table_rows for rows in self.stored}

    def restore_(
        self, dense: Mapping[str, Tensor], shards: Sequence[TableShard], *, partly: bool = False
    ) -> None:
        """Copy into the given tensors in place; nothing is copied unless everything fits.

        Args:
            dense: tensors with the names, shapes and dtypes that were saved.
            shards: rows in any partition of the saved tables, with the tensors that were saved.
            partly: whether other tensors may have been saved too, which are left.

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
        """See that the files hold as many numbers as a model has, before anything of the model's size is made.

        Args:
            model: settings of its dense part.
            schema: of the rows.
            num_rows: heights of its tables.

        Raises:
            CheckpointError: they hold fewer.
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
                    f"a checkpoint must fit the model, whose {what} has {size:,} numbers, and {self.path} has "
                    f"{found[what]:,} of it; resume with the configuration that saved it"
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
            # Whole rows are read whole, so that a table of another width is told from a part of this one.
            whole = shard.is_whole and strip[0].columns is None
            yield from self._strip(shard, strip, None if whole else slice(column, stop))
            column = stop
        if column < end:
            yield from self._strip(shard, [], None)

    def _strip(
        self, shard: TableShard, parts: Sequence[StoredRows], columns: slice | None
    ) -> Iterator[Piece]:
        """Yield what fills some columns of a shard, given as columns of the table; None for whole rows."""
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
                f"{self.path} lacks rows {row:,} to {end:,} of a table {shard.table} with "
                f"{shard.table_rows:,} rows; resume with the configuration that saved it"
            )


def load(path: Path, *fingerprints: str) -> Checkpoint:
    """Verify one checkpoint.

    Args:
        path: its folder.
        fingerprints: identify the configurations, of which one must have saved it; the first is that of the run.

    Returns:
        The checkpoint; `restore_` reads its tensors.

    Raises:
        CheckpointError: it is damaged, of another format, or belongs to another configuration.
    """
    try:
        return _verified(path, fingerprints)
    except DamagedFolderError as error:
        raise CheckpointError(_refusal(path, str(error))) from error


def load_newest_good(folder: Path, *fingerprints: str) -> Checkpoint | None:
    """Load the newest checkpoint that can be used, and warn about each newer one that cannot.

    All ranks call it: the first one verifies, and all take the same. On each other machine one rank verifies what it sees.

    Args:
        folder: the folder of all checkpoints of the run; it may be absent.
        fingerprints: as of `load`.

    Returns:
        The checkpoint, or None when there is none at all; `CheckpointError` when there are some and none can be used,
        `LockedError` when the run replaces them faster than they can be read.
    """
    found = ranks.first_does(lambda: _newest_good(folder, fingerprints), patient=True)
    if found is None:
        return None
    path, step = Path(found[0]), found[1]
    verifies = is_first_here() and not ranks.is_first()
    _, opened = ranks.all_open(lambda: (None, load(path, *fingerprints) if verifies else _opened(path, step)))
    return opened


def _newest_good(folder: Path, fingerprints: Sequence[str]) -> tuple[str, int] | None:
    """Return the absolute folder and the step of the newest checkpoint that can be used."""
    for _ in range(LOOKS):
        refusals: list[CheckpointError] = []
        with storage_errors(folder):
            paths = step_folders.newest_first(folder)
        for path in paths:
            try:
                return str(path.absolute()), load(path, *fingerprints).step
            except CheckpointError as error:
                if not path.exists():  # replaced while it was read
                    break
                logger.warning("skipped a checkpoint: %s", error)
                refusals.append(error)
        else:
            if refusals:
                raise CheckpointError(
                    f"none of {len(refusals)} checkpoints can be used; the newest: {refusals[0]}"
                )
            return None
    raise replaced(folder)


def replaced(folder: Path) -> LockedError:
    """Return the error of a reader that a run in training was always ahead of."""
    return LockedError(
        f"a checkpoint must stay while it is read, and {LOOKS} times the run that works on {folder} replaced it; wait until "
        "it is done, or let it save less often, with --checkpoint-every or --eval-every"
    )


def latest(folder: Path) -> Path | None:
    """Return the folder of the newest checkpoint, unverified, or None when there is none."""
    with storage_errors(folder):
        return next(iter(step_folders.newest_first(folder)), None)


def _verified(path: Path, fingerprints: Sequence[str]) -> Checkpoint:
    manifest = read_sealed(path)
    found, owner, step = (manifest.get(key) for key in ("format", "fingerprint", "step"))
    if found != FORMAT:
        raise CheckpointError(
            f"{path} has format {found!r}, and this version reads {FORMAT}; "
            "resume with the version that wrote it"
        )
    if owner not in fingerprints:
        raise CheckpointError(
            f"{path} belongs to configuration {owner!r}, and this run has {fingerprints[0]!r}; "
            "resume with the flags and the configuration file of the first start"
        )
    if not isinstance(step, int) or step_folders.step_of(path) != step:
        raise DamagedFolderError(f"{path} holds step {step!r}, not the one of its name")
    found = _opened(path, step)
    if {DENSE, STATE, *(rows.file for rows in found.stored)} != set(manifest["files"]):
        raise DamagedFolderError(f"{path} holds other files than its {STATE} lists")
    return found


def _opened(path: Path, step: int) -> Checkpoint:
    """Read what a checkpoint says of itself, verifying nothing."""
    try:
        contents = pydantic.TypeAdapter(_Contents).validate_json((path / STATE).read_bytes())
        digest = file_digest(path / MANIFEST)
    except (OSError, pydantic.ValidationError) as error:
        raise DamagedFolderError(f"{path / STATE} is no state of a checkpoint: {error}") from error
    return Checkpoint(path=path, step=step, digest=digest, state=contents.state, stored=contents.stored)


def _moved(columns: slice, first: int) -> slice:
    """Return columns of a table as columns of a part that begins at `first`."""
    return slice(columns.start - first, columns.stop - first)


def _refusal(path: Path, reason: str) -> str:
    run = path.parent.parent
    if locked_by_another(run / LOCK):
        return (
            f"{reason}. Another process trains {run} and replaces its checkpoints: leave them alone, and name the run to "
            "get the newest one"
        )
    return (
        f"{reason}. A checkpoint is used whole or not at all: remove {path} to use the one before it, "
        "or start anew with another --out"
    )
