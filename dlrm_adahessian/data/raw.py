"""Read raw data of any schema, and prepare it in a cache folder named by its content."""

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
_MOST_REJECTED = "most_rejected"  # manifest key: the rule that most bad rows break

_FEWEST_JUDGED = 100  # bad lines; a few of them in a small file do not mean that it has another format
_BLOCK_BYTES = 1 << 20  # larger blocks are not faster, and take 40 MiB more memory

logger = logging.getLogger(__name__)


class RowReader:
    """Reads the samples of one source after another."""

    def __init__(self, schema: Schema, bad_rows: BadLines, labels: Labels = "required") -> None:
        """Set up. See `ColumnReader` for the arguments."""
        self._schema, self._bad_rows = schema, bad_rows
        self._labels: Labels = labels
        self._columns = ColumnReader(schema, bad_rows, labels)

    def read(self, source: Source, *, limit: int | None = None) -> Iterator[RowBlock]:
        """Yield at most `limit` samples of a source in order, in nonempty blocks."""
        if self._schema.format == "criteo":
            return read_rows(
                source, self._bad_rows, labels=self._labels, block_bytes=_BLOCK_BYTES, limit=limit
            )
        return self._columns.read(source, limit=limit)


def part_of(name: str, rule: SplitRule) -> int | None:
    """Return the part of a file: 0 for training, 1 for test, 2 for validation; None if it is in no part."""
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
    """Return a function from file names to parts; None unless the split is by files and there are several."""
    if schema.split.by != "files" or is_pipe(path) or len(input_files(path, schema.format)) == 1:
        return None
    return partial(part_of, rule=schema.split)


def files_read(path: str, schema: Schema) -> list[Path]:
    """Return the files of an input that is not a pipe, without those that are in no part."""
    part = part_of_files(path, schema)
    return [file for file in input_files(path, schema.format) if part is None or part(file.name) is not None]


def rejects_name(schema: Schema) -> str:
    """Return the name of the file of bad rows, which has the original lines, or rows as lines of JSON."""
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
    """Return the prepared data of an input. Prepare it if it is not in the cache.

    A pipe is always read, because its content is not known before.

    Args:
        dataset: prefix of the folder name.
        schema: schema of the data.
        path: a file, a folder, or `-`.
        cfg: cache folder, vocabulary, and limit of bad lines.
        rows: use at most this many valid samples, the first ones; None for all.
        bad_rows: raise `DataError` at the first bad row, or write bad rows to a file.
        extends: preprocessing of earlier data to continue from; raises `UsageError` if the columns differ.

    Returns:
        The data.

    Raises:
        DataError: too many rows are bad, so the others may not be representative.
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
        recipe["texts"] = True  # earlier versions did not store texts
    if extends is not None:
        extends.require_extendable(schema)
        recipe["extends"] = extends.fingerprint
    reading = _Reading(path, schema, rows, cfg.min_count, extends, quarantine=bad_rows == "quarantine")
    prepare = _from_pipe if is_pipe(path) else _from_files
    found = prepare(reading, recipe, cfg.cache_dir, dataset)
    share = found.rejected / (len(found.labels) + found.rejected)
    if found.rejected >= _FEWEST_JUDGED and share > cfg.max_rejected:
        reason = found.manifest.get(_MOST_REJECTED, "unknown")  # earlier versions did not store it
        raise DataError(
            f"{share:.1%} of the lines of {path} are bad ({found.rejected:,}, stored in {found.folder}); at most "
            f"{100 * cfg.max_rejected:g}% are allowed. Most frequent reason: {reason}. Fix these lines, or raise "
            "--data.max-rejected if the other samples are representative."
        )
    return found


def _from_files(reading: "_Reading", recipe: dict[str, Any], cache_dir: Path, dataset: str) -> PreparedData:
    """Return the data from the cache, under the name of its content, or prepare it."""
    path, schema, rows = reading.path, reading.schema, reading.rows

    def content() -> list[dict[str, Any]]:
        return input_identity(files_read(path, schema), cache_dir)

    identity = content()

    def fill(folder: Path) -> dict[str, Any]:
        there = rows_of_files(files_read(path, schema))
        require_room_for_rows(min(rows or there, there), schema, cache_dir)
        found = reading.fill(folder)
        # Also compare what was read: the content may have changed and changed back.
        if content() != identity or not reading.may_be_of(identity):
            raise DataError(f"{path} changed while it was read. Prepare it again.")
        return found

    return find_or_make(cache_dir, dataset, {**recipe, "input": identity}, fill)


def _from_pipe(reading: "_Reading", recipe: dict[str, Any], cache_dir: Path, dataset: str) -> PreparedData:
    """Prepare the data under a temporary name, and then rename it to that of its content."""

    def fill(folder: Path) -> dict[str, Any]:
        found = reading.fill(folder)
        key = {**recipe, "input": reading.read[-1]}
        return {**found, "key": key, "fingerprint": fingerprint(key)}

    folder = cache_dir / f"{dataset}-pipe"
    with turn_at(folder):
        return adopt(make(folder, fill), cache_dir, dataset)


class _Reading:
    """One pass over raw data.

    Attributes:
        path: path of the input.
        schema: schema of the data.
        rows: largest number of valid samples to use; None for all.
        read: size and hash of what was read of each file; None if the format needs random access.
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
        """Write the data to an empty folder, and return its manifest entries."""
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
        """Return whether the bytes read may be those of `identity`; True if not all of them were read in order."""
        known = [file for file in self.read if file is not None]
        if sum(file["bytes"] for file in known) != sum(file["bytes"] for file in identity):
            return True
        # Sort, because files are read part by part.
        return sorted(map(fingerprint, known)) == sorted(map(fingerprint, identity))

    def _blocks(self, bad_lines: BadLines) -> Iterator[RowBlock]:
        """Yield the valid samples. Raise `DataError` if bad lines leave too few of them."""
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
                f"Found {good} valid samples; at least {MIN_ROWS} are required. {bad_lines.told(good)}. Fix these lines."
            )
