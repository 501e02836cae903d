"""Raw rows of any schema: read, and prepared under the name of their content."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dlrm_adahessian.data.columnar.reader import ColumnReader
from dlrm_adahessian.data.config import BadRows, DataConfig
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.criteo.layout import Labels
from dlrm_adahessian.data.criteo.reader import read_rows
from dlrm_adahessian.data.prepared.folder import FORMAT, PreparedData, adopt, find_or_make, make, turn_at
from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.prepared.room import require_room_for_rows, rows_of_files
from dlrm_adahessian.data.prepared.writer import StageBar, write_prepared
from dlrm_adahessian.data.rows import RowBlock
from dlrm_adahessian.data.schema import Schema, SplitRule
from dlrm_adahessian.data.split import MIN_ROWS
from dlrm_adahessian.data.text.bad_lines import BadLines
from dlrm_adahessian.data.text.sources import Source, input_files, input_identity, is_pipe, open_sources
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.runs.sealed import fingerprint

REJECTS = "rejects"
_MOST_REJECTED = "most_rejected"  # of the manifest: the rule that most bad rows break

_FEWEST_JUDGED = 100  # bad lines: a small file with some is no log that is read wrongly
_BLOCK_BYTES = 1 << 20  # more is no faster, and the process would keep 40 MiB more

logger = logging.getLogger(__name__)


class RowReader:
    """Reads the rows of one source after another."""

    def __init__(self, schema: Schema, bad_rows: BadLines, labels: Labels = "required") -> None:
        """Set up; arguments as of `ColumnReader`."""
        self._schema, self._bad_rows = schema, bad_rows
        self._labels: Labels = labels
        self._columns = ColumnReader(schema, bad_rows, labels)

    def read(self, source: Source, *, limit: int | None = None) -> Iterator[RowBlock]:
        """Yield the rows of a source in order, in blocks that are not empty; at most `limit`."""
        if self._schema.format == "criteo":
            return read_rows(
                source, self._bad_rows, labels=self._labels, block_bytes=_BLOCK_BYTES, limit=limit
            )
        return self._columns.read(source, limit=limit)


def part_of(name: str, rule: SplitRule) -> int | None:
    """Return the part that a file's rows are in: 0 trains, 1 tests, 2 validates; None where they are in none."""
    others_train = ("*",)
    for part, patterns in (
        (1, rule.test_files),
        (2, rule.validation_files),
        (0, rule.train_files or others_train),
    ):
        if any(fnmatch(name, pattern) for pattern in patterns):
            return part
    return None


def part_of_files(path: str, schema: Schema) -> Callable[[str], int | None] | None:
    """Return what says of the name of a file in which part its rows are; None where their order says it."""
    if schema.split.by != "files" or is_pipe(path) or len(input_files(path, schema.format)) == 1:
        return None
    return partial(part_of, rule=schema.split)


def files_read(path: str, schema: Schema) -> list[Path]:
    """Return the files of an input that is no pipe, without those that are in no part."""
    part = part_of_files(path, schema)
    return [file for file in input_files(path, schema.format) if part is None or part(file.name) is not None]


def rejects_name(schema: Schema) -> str:
    """Return the name of the file of bad rows: lines as they were, or rows as lines of JSON."""
    return f"{REJECTS}.{'tsv' if schema.format == 'criteo' else 'jsonl'}"


def prepare_raw(
    dataset: str,
    schema: Schema,
    path: str,
    cfg: DataConfig,
    *,
    rows: int | None,
    bad_rows: BadRows,
    extends: Preprocessing | None = None,
) -> PreparedData:
    """Return the prepared rows of an input; prepare them when the cache lacks them.

    Text from a pipe is always read, since only then is known what it is.

    Args:
        dataset: begins the name of their folder.
        schema: of the rows.
        path: a file, a folder, or `-`.
        cfg: where the cache is, how the vocabulary is cut, and how many rows may be bad.
        rows: use the first good rows only.
        bad_rows: refuse the input for a bad row with a `DataError`, or put the row aside.
        extends: what was learnt from earlier rows of the same columns, to go on from; else a `UsageError`.

    Returns:
        The rows.

    Raises:
        DataError: too large a share was put aside: the rest may be another kind of rows.
    """
    recipe: dict[str, Any] = {
        "format": FORMAT,
        "min_count": cfg.min_count,
        "rows": rows,
        "bad_rows": bad_rows,
    }
    if schema != CRITEO:
        recipe["schema"] = schema.asdict()
    if schema.hashes_texts:
        recipe["texts"] = True  # which an earlier version did not keep
    if extends is not None:
        extends.require_extendable(schema)
        recipe["extends"] = extends.fingerprint
    reading = _Reading(path, schema, rows, cfg.min_count, extends, quarantine=bad_rows == "quarantine")
    prepare = _from_pipe if is_pipe(path) else _from_files
    found = prepare(reading, recipe, cfg.cache_dir, dataset)
    share = found.rejected / (len(found.labels) + found.rejected)
    if found.rejected >= _FEWEST_JUDGED and share > cfg.max_rejected:
        reason = found.manifest.get(_MOST_REJECTED, "not known")  # of rows that a version of before prepared
        raise DataError(
            f"{share:.1%} of the lines of {path} are bad ({found.rejected:,}, put aside in {found.folder}), and at most "
            f"{100 * cfg.max_rejected:g}% may be; the most frequent reason: {reason}; repair these lines, or allow more by "
            "--data.max-rejected if the others still stand for all rows"
        )
    return found


def _from_files(reading: "_Reading", recipe: dict[str, Any], cache_dir: Path, dataset: str) -> PreparedData:
    """Prepare unless the cache has the rows, under the name of their content."""
    path, schema, rows = reading.path, reading.schema, reading.rows

    def content() -> list[dict[str, Any]]:
        return input_identity(files_read(path, schema), cache_dir)

    identity = content()

    def fill(folder: Path) -> dict[str, Any]:
        there = rows_of_files(files_read(path, schema))
        require_room_for_rows(min(rows or there, there), schema, cache_dir)
        found = reading.fill(folder)
        # It may also have been another in between, and be again what it was.
        if content() != identity or not reading.may_be_of(identity):
            raise DataError(f"{path} must not change while it is read, and did; prepare it again")
        return found

    return find_or_make(cache_dir, dataset, {**recipe, "input": identity}, fill)


def _from_pipe(reading: "_Reading", recipe: dict[str, Any], cache_dir: Path, dataset: str) -> PreparedData:
    """Prepare under a name of its own, and then under that of the content."""

    def fill(folder: Path) -> dict[str, Any]:
        found = reading.fill(folder)
        key = {**recipe, "input": reading.read[-1]}
        return {**found, "key": key, "fingerprint": fingerprint(key)}

    folder = cache_dir / f"{dataset}-pipe"
    with turn_at(folder):
        return adopt(make(folder, fill), cache_dir, dataset)


class _Reading:
    """One pass over raw rows.

    Attributes:
        path: of the input.
        schema: of the rows.
        rows: how many good ones to take at most; None for all.
        read: identifies each file by what was read of it; None where that does not tell.
    """

    def __init__(
        self,
        path: str,
        schema: Schema,
        rows: int | None,
        min_count: int,
        extends: Preprocessing | None,
        *,
        quarantine: bool,
    ) -> None:
        self.path = path
        self.schema = schema
        self.rows = rows
        self._min_count = min_count
        self._extends = extends
        self._quarantine = quarantine
        self._stages = StageBar()
        self.read: list[dict[str, Any] | None] = []

    def fill(self, folder: Path) -> dict[str, Any]:
        """Write the rows into an empty folder; return what the manifest says of them."""
        bad_lines = BadLines(folder / rejects_name(self.schema) if self._quarantine else None)
        with closing(bad_lines), self._stages as stages:
            blocks = self._blocks(bad_lines)
            found = write_prepared(
                blocks,
                folder,
                self.schema,
                min_count=self._min_count,
                advance=stages.advance,
                extends=self._extends,
            )
        if bad_lines.count:
            logger.warning("%s", bad_lines.told(found["rows"]))
            found[_MOST_REJECTED] = bad_lines.most_frequent
        return {**found, "rejected": bad_lines.count}

    def may_be_of(self, identity: Sequence[Mapping[str, Any]]) -> bool:
        """Whether what was read has the content that `input_identity` told; where not all was read in order, it may."""
        known = [file for file in self.read if file is not None]
        if sum(file["bytes"] for file in known) != sum(file["bytes"] for file in identity):
            return True
        # Files of one part are read before those of another.
        return sorted(map(fingerprint, known)) == sorted(map(fingerprint, identity))

    def _blocks(self, bad_lines: BadLines) -> Iterator[RowBlock]:
        """Yield the good rows; a `DataError` where bad lines leave too few of them to go on."""
        left = self.rows
        good = 0
        schema = self.schema
        reader = RowReader(schema, bad_lines)
        part = part_of_files(self.path, schema)
        for source in open_sources(self.path, schema.format, part_of=part or (lambda name: 0)):
            self._stages.total_bytes = source.total
            for block in reader.read(source, limit=left):
                left = None if left is None else left - len(block)
                good += len(block)
                self._stages.bytes_read = source.consumed()
                yield (
                    block
                    if part is None
                    else replace(block, part=np.full(len(block), part(source.name), np.int8))
                )
            self.read.append(source.identity())
            if left == 0:
                break
        if bad_lines.count and good < MIN_ROWS:
            raise DataError(
                f"{MIN_ROWS} good rows at least are needed, found {good}: {bad_lines.told(good)}; repair the lines"
            )
