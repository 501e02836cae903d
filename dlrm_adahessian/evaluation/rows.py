# pyright: basic
"""Read samples in blocks for scoring: from one folder of prepared data, or from any number of raw inputs.

Runs may have different vocabularies, so each block has features for each of several preprocessings.
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
    """Consecutive samples.

    Attributes:
        labels: (N,) int8.
        file: (N,) int32, index of the file of each sample.
        features: features of the samples, for each preprocessing.
        weights: (N,) float32, number of population samples that each one counts for; None for 1 each.
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
        """Concatenate blocks."""
        weights = [block.weights for block in blocks if block.weights is not None]
        return cls(
            labels=np.concatenate([block.labels for block in blocks]),
            file=np.concatenate([block.file for block in blocks]),
            features=tuple(map(Features.joined, zip(*(block.features for block in blocks), strict=True))),
            weights=np.concatenate(weights) if weights else None,
        )


class PreparedRows:
    """Samples from a folder of prepared data. Their ids use the vocabulary of the runs.

    Attributes:
        files: name of the folder.
        rejected: number of rejected lines, 0.
        first_row: index of the first sample in the folder.
        all_rows: number of samples in the folder.
        weighted: whether the samples have weights.
    """

    def __init__(self, folder: str, part: Part, fingerprints: Iterable[str]) -> None:
        """Verify and map the data; `fingerprints` identify the training data of the runs."""
        try:
            self._data = open_prepared(Path(folder))
        except DamagedFolderError as error:
            raise CheckpointError(f"{error}. Prepare the data again.") from error
        if any(self._data.fingerprint != other for other in fingerprints):
            raise UsageError(
                f"{folder} was prepared with another vocabulary than the runs use. Pass the raw data instead."
            )
        self.all_rows = len(self._data.labels)
        self.weighted = self._data.weights is not None or self._data.preprocessing.schema.label.sampled
        self._rows = range(self.all_rows) if part == "all" else getattr(self._data.split, part)
        self.first_row = self._rows.start
        self.files, self.rejected = [printable_name(Path(folder).name)], [0]
        self._read = 0

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield blocks of `size` samples. The last one may be smaller."""
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
        """Return the share of samples read so far."""
        return self._read / len(self._rows) if self._rows else None


class RawRows:
    """Samples from raw data, with or without labels. Unseen tokens share one embedding row per feature.

    Attributes:
        files: names of the files opened so far.
        rejected: number of bad lines in each file.
        first_row: index of the first sample among those that are split into days.
        all_rows: number of samples that are split into days; None if all are read.
        weighted: whether the samples have weights.
    """

    def __init__(
        self,
        paths: Sequence[str],
        bad_lines: BadLines,
        preprocessings: Sequence[Preprocessing],
        part: "RawPart | None",
    ) -> None:
        """Take the inputs. Blocks have features in the order of `preprocessings`; without `part`, all samples are read."""
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
        """Yield the blocks of the line reader, independent of `size`. Raises a `DataError` if all lines are bad."""
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
                f"The input has no valid samples: {self._bad_lines.told(good)}. See the rejected lines."
            )

    def _wanted(self, block: Block, first: int) -> Iterator[Block]:
        """Yield the samples of a block that are in the part, given the index of its first sample."""
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
        """Return the share of bytes read so far, with equal shares for all inputs; None for a pipe."""
        if self._source is None or not self._source.total:
            return None
        return (self._input + self._source.consumed() / self._source.total) / len(self._paths)


def _common_schema(preprocessings: Sequence[Preprocessing]) -> Schema:
    """Return the schema for reading raw data for all runs: that of the first run."""
    schema = preprocessings[0].schema
    if any(not schema.reads_as(other.schema) for other in preprocessings):
        raise UsageError(
            "Runs that score the same data must read the same columns, but their schemas differ in label, weight, time, "
            "columns, transforms, or tokens. Evaluate each run alone."
        )
    return schema


@dataclass(frozen=True, kw_only=True)
class RawPart:
    """A range of the `all_rows` raw samples, split in the same way as in training."""

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
    """Open the data in `--data-path`.

    Args:
        paths: a folder of prepared data, or raw inputs.
        part: part of the prepared data, or of raw data that every run used.
        bad_lines: receives the bad lines of raw inputs.
        preprocessings: preprocessings of the runs, by the fingerprint of their training data.
        origins: origin of the training data of each run.

    Returns:
        The opened data.

    Raises:
        UsageError: prepared data is combined with other inputs, or `part` is set for other raw data.
    """
    prepared = [path for path in paths if is_prepared(path)]
    if prepared and len(paths) > 1:
        raise UsageError(
            f"Prepared data must be evaluated alone, but {prepared[0]} comes with {len(paths) - 1} other inputs."
        )
    if prepared:
        return PreparedRows(prepared[0], part, preprocessings)
    wanted = None if part == "all" else _raw_part(paths, part, origins)
    return RawRows(paths, bad_lines, list(preprocessings.values()), wanted)


def _raw_part(paths: Sequence[str], part: Part, origins: Sequence[Origin | None]) -> RawPart:
    known = [each.split for each in origins if each and len(paths) == 1 and each.is_that_of(paths[0])]
    if len(known) < len(origins) or len(set(known)) != 1:
        raise UsageError(
            f"--part selects from the data of the runs, but {paths[0]} contains other raw data. Leave out --part, or pass "
            "the folder of prepared data."
        )
    return RawPart(rows=getattr(known[0], part), all_rows=known[0].rows)


def holds_training_rows(paths: Sequence[str], part: Part, origin: Origin | None) -> bool:
    """Return whether a run was trained on some of the samples.

    Args:
        paths: inputs that `open_rows` accepted.
        part: part of the samples.
        origin: origin of the run's data.

    Returns:
        Whether it was. False if unknown, for example for a pipe.
    """
    if part != "all" or is_prepared(paths[0]):  # `open_rows` accepts these only for the data of the runs
        return part in ("all", "train")
    return origin is not None and any(map(origin.shares, paths))


def regrouped(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """Yield the same samples in blocks of `size`, because the last bits of a prediction depend on the batch.

    Args:
        blocks: blocks of any size.
        size: samples per block, at least 1.

    Yields:
        The blocks. The last one may be smaller.
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
