# pyright: basic
"""Rows to score, in blocks: one folder of prepared rows, or any number of raw inputs.

Runs may have learnt different vocabularies, so a block has features for each of several preprocessings.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.prepared.folder import open_prepared
from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.raw import RowReader
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.data.sampling import population_weights
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.data.text.bad_lines import BadLines
from dlrm_adahessian.data.text.sources import Source, is_prepared, open_sources
from dlrm_adahessian.errors import CheckpointError, DataError, UsageError
from dlrm_adahessian.evaluation.origin import Origin
from dlrm_adahessian.runs.sealed import DamagedFolderError
from dlrm_adahessian.runtime.terminal import printable_name

Part = Literal["all", "train", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive rows.

    Attributes:
        labels: (N,) int8.
        file: (N,) int32, of which file each row is.
        features: of the rows, by each preprocessing.
        weights: (N,) float32, as how many samples of the population each row counts; None for 1 each.
    """

    labels: npt.NDArray[np.int8]
    file: npt.NDArray[np.int32]
    features: tuple[Features, ...]
    weights: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Block":
        return Block(
            labels=self.labels[rows],
            file=self.file[rows],
            features=tuple(features[rows] for features in self.features),
            weights=None if self.weights is None else self.weights[rows],
        )

    @classmethod
    def joined(cls, blocks: Sequence["Block"]) -> "Block":
        """Return the rows of all blocks, one after another."""
        weights = [block.weights for block in blocks if block.weights is not None]
        return cls(
            labels=np.concatenate([block.labels for block in blocks]),
            file=np.concatenate([block.file for block in blocks]),
            features=tuple(map(Features.joined, zip(*(block.features for block in blocks), strict=True))),
            weights=np.concatenate(weights) if weights else None,
        )


class PreparedRows:
    """Rows of a folder that `prepare` made, whose ids are of the vocabulary that the runs were trained on.

    Attributes:
        files: the folder's name.
        rejected: no line.
        first_row: place of the first row in the folder.
        all_rows: rows in the folder.
        weighted: whether they have weights.
    """

    def __init__(self, folder: str, part: Part, fingerprints: Iterable[str]) -> None:
        """Verify and map the rows; `fingerprints` are of the rows that the runs were trained on."""
        try:
            self._data = open_prepared(Path(folder))
        except DamagedFolderError as error:
            raise CheckpointError(f"{error}; prepare the rows again") from error
        if any(self._data.fingerprint != other for other in fingerprints):
            raise UsageError(
                f"{folder} was prepared with another vocabulary than a run was trained on; name the raw rows instead"
            )
        self.all_rows = len(self._data.labels)
        self.weighted = self._data.weights is not None or self._data.preprocessing.schema.label.sampled
        self._rows = range(self.all_rows) if part == "all" else getattr(self._data.split, part)
        self.first_row = self._rows.start
        self.files, self.rejected = [printable_name(Path(folder).name)], [0]
        self._read = 0

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield blocks of `size` rows, the last smaller."""
        for start in range(self._rows.start, self._rows.stop, size):
            these = slice(start, min(start + size, self._rows.stop))
            labels = np.asarray(self._data.labels[these])
            yield Block(
                labels=labels,
                file=np.zeros(len(labels), np.int32),
                features=(self._data.features[these],),
                weights=self._data.population_weights(these),
            )
            self._read += len(labels)

    def done(self) -> float | None:
        """Return the share of rows that were read."""
        return self._read / len(self._rows) if self._rows else None


class RawRows:
    """Lines of text with labels or without; tokens that training did not see share one row per feature.

    Attributes:
        files: names of those that were opened.
        rejected: bad lines of each.
        first_row: place of the first row among those that days are cut of.
        all_rows: number of these; None where they are all that are read.
        weighted: whether they have weights.
    """

    def __init__(
        self,
        paths: Sequence[str],
        bad_lines: BadLines,
        preprocessings: Sequence[Preprocessing],
        part: "RawPart | None",
    ) -> None:
        """Name the inputs; `preprocessings` are in the order of a block's features; no `part` is all rows."""
        self.first_row = part.rows.start if part else 0
        self.all_rows = part.all_rows if part else None
        self._part = part
        self.files: list[str] = []
        self.rejected: list[int] = []
        self._paths, self._bad_lines, self._preprocessings = paths, bad_lines, preprocessings
        self._schema = _common_schema(preprocessings)
        self._reader = RowReader(self._schema, bad_lines, "optional")
        self.weighted = self._schema.weight is not None or self._schema.label.sampled
        self._input, self._source = 0, None

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the blocks that the reader of lines yields, whatever `size`; a `DataError` when every line is bad."""
        good = 0
        for place, path in enumerate(self._paths):
            self._input = place
            for source in open_sources(path, self._schema.format):
                for block in self._of(source):
                    yield from self._wanted(block, good)
                    good += len(block)
                    if self._part and good >= self._part.rows.stop:
                        return
        self._source = None
        if self._bad_lines.count and not good:
            raise DataError(
                f"the input must hold rows, and {self._bad_lines.told(good)}; see the rejected lines"
            )

    def _wanted(self, block: Block, first: int) -> Iterator[Block]:
        """Yield what of a block, whose first row has that number, is in the part."""
        if self._part is None:
            yield block
            return
        rows = self._part.rows
        kept = slice(max(0, rows.start - first), max(0, rows.stop - first))
        if kept.start < min(kept.stop, len(block)):
            yield block[kept]

    def _of(self, source: Source) -> Iterator[Block]:
        self._source = source
        self.files.append(printable_name(source.name))
        self.rejected.append(0)
        before = self._bad_lines.count
        for rows in self._reader.read(source):
            self.rejected[-1] = self._bad_lines.count - before
            yield Block(
                labels=rows.labels,
                file=np.full(len(rows), len(self.files) - 1, np.int32),
                features=tuple(each.features(rows) for each in self._preprocessings),
                weights=population_weights(self._schema.label, rows.labels, rows.weights),
            )
        self.rejected[-1] = self._bad_lines.count - before

    def done(self) -> float | None:
        """Return the share of bytes that were read, each input counting alike; None for a pipe."""
        if self._source is None or not self._source.total:
            return None
        return (self._input + self._source.consumed() / self._source.total) / len(self._paths)


def _common_schema(preprocessings: Sequence[Preprocessing]) -> Schema:
    """Return the schema by which raw rows are read for all runs, that of the first."""
    schema = preprocessings[0].schema
    if any(not schema.reads_as(other.schema) for other in preprocessings):
        raise UsageError(
            "runs that score the same rows read the same columns of them, and the schemas of these differ in label, weight, "
            "time, columns, transforms or tokens; evaluate each alone"
        )
    return schema


@dataclass(frozen=True, kw_only=True)
class RawPart:
    """A part of raw rows, as they were split when the runs' rows were prepared from them: which of `all_rows`."""

    rows: range
    all_rows: int


def open_rows(
    paths: Sequence[str],
    *,
    part: Part,
    bad_lines: BadLines,
    preprocessings: Mapping[str, Preprocessing],
    origins: Sequence[Origin | None],
) -> PreparedRows | RawRows:
    """Open the rows that `--data-path` names.

    Args:
        paths: a folder of prepared rows, or raw inputs.
        part: of prepared rows, or of raw ones that those of every run were prepared from.
        bad_lines: takes those of raw inputs.
        preprocessings: of the runs, by the fingerprint of the rows that they were trained on.
        origins: of these rows, one for each run.

    Returns:
        The rows.

    Raises:
        UsageError: prepared rows are mixed with other inputs, or `part` was given for other raw rows.
    """
    prepared = [path for path in paths if is_prepared(path)]
    if prepared and len(paths) > 1:
        raise UsageError(
            f"prepared rows are evaluated alone, got {prepared[0]} and {len(paths) - 1} other inputs"
        )
    if prepared:
        return PreparedRows(prepared[0], part, preprocessings)
    wanted = None if part == "all" else _raw_part(paths, part, origins)
    return RawRows(paths, bad_lines, list(preprocessings.values()), wanted)


def _raw_part(paths: Sequence[str], part: Part, origins: Sequence[Origin | None]) -> RawPart:
    known = [each.split for each in origins if each and len(paths) == 1 and each.is_that_of(paths[0])]
    if len(known) < len(origins) or len(set(known)) != 1:
        raise UsageError(
            f"--part names a part of the rows that the runs were trained and tested on, and {paths[0]} holds raw ones that "
            "are not known as these; leave it out, or name the folder of prepared rows"
        )
    return RawPart(rows=getattr(known[0], part), all_rows=known[0].rows)


def holds_training_rows(paths: Sequence[str], part: Part, origin: Origin | None) -> bool:
    """Tell whether a run was trained on some of the rows.

    Args:
        paths: as those of `open_rows`, which took them.
        part: of the rows.
        origin: of the run's own rows.

    Returns:
        Whether it was; False where that is not known, as of a pipe.
    """
    if part != "all" or is_prepared(paths[0]):  # `open_rows` takes these for the rows of the runs only
        return part in ("all", "train")
    return origin is not None and any(map(origin.shares, paths))


def regrouped(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """Yield the same rows in blocks of `size`, the last smaller: a row's last bits depend on the batch it is scored in.

    Args:
        blocks: of any size.
        size: in rows, at least 1.

    Yields:
        The blocks.
    """
    held: list[Block] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        while count >= size:
            whole = Block.joined(held)
            yield whole[:size]
            held, count = [whole[size:]], count - size
    if count:
        yield Block.joined(held)
