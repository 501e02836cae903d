"""Write blocks of samples to one file per column group, in bounded memory.

The input is read once. This pass writes the columns that are final (labels, dense columns) and spills the others: the
vocabulary depends on the training part, which is known only at the end of the input. Then the tokens of the training part
are counted, and all tokens are encoded.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.prepared.arrays import NpyWriter
from dlrm_adahessian.data.prepared.preprocessing import Preprocessing, scaled, scales_of
from dlrm_adahessian.data.prepared.spill import Spill
from dlrm_adahessian.data.prepared.texts import write_texts
from dlrm_adahessian.data.prepared.vocabulary import build_vocabulary, extended
from dlrm_adahessian.data.rows import RowBlock
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.data.split import PARTS, split_rows
from dlrm_adahessian.runtime.terminal import progress_bar

Advance = Callable[[str, int], None]

logger = logging.getLogger(__name__)


def write_prepared(
    blocks: Iterator[RowBlock],
    folder: Path,
    schema: Schema,
    *,
    min_count: int,
    advance: Advance = lambda stage, rows: None,
    extends: Preprocessing | None = None,
) -> dict[str, Any]:
    """Write the files that `PreparedData` maps.

    Args:
        blocks: labeled samples in the order of their parts.
        folder: an empty folder.
        schema: schema of the samples.
        min_count: tokens with a smaller count in the training part share row 0, unless the schema sets another limit.
        advance: called with the stage (`read`, `encode`) and the number of samples it has just finished.
        extends: preprocessing of earlier data, whose scales are reused and whose tokens keep their embedding rows.

    Returns:
        Manifest entries: number of samples, bounds of the parts, table heights, the schema, and the number of missing values
        per column. Raises `DataError` if there are too few samples for the parts.
    """
    spill = Spill(folder / "spill", schema)
    with closing(spill):
        rows, parts = _write_columns(blocks, folder, schema, spill, advance)
    split = split_rows(rows, schema.split, parts)
    train = len(split.train)
    missing = spill.missing_counts(train)[len(schema.dense) :]
    vocabulary = build_vocabulary(
        schema,
        lambda feature: spill.column(feature, train),
        np.pad(missing, (0, len(schema.bags))),
        min_count=min_count,
    )
    if extends is None:
        scales, texts = scales_of(lambda: spill.unscaled(train), len(schema.standardized)), None
    else:
        vocabulary = extended(schema, extends.vocabulary, vocabulary)
        scales, texts = extends.scales, extends.texts
    preprocessing = Preprocessing(schema, vocabulary, scales)
    described = preprocessing.save(folder)
    write_texts(spill.texts, vocabulary, preprocessing.encoder, folder, texts)
    _write_scaled(preprocessing, spill, folder, rows)
    _write_ids(preprocessing, spill, folder, rows, advance)
    absent = spill.missing_counts(rows).tolist()
    spill.remove()
    names = (*schema.dense_names, *schema.features)
    return {
        "rows": rows,
        "split": split.asdict(),
        "num_rows": list(preprocessing.num_rows),
        "missing": dict(zip(names, absent, strict=False)),
        **described,
    }


def _write_columns(
    blocks: Iterator[RowBlock], folder: Path, schema: Schema, spill: Spill, advance: Advance
) -> tuple[int, list[int] | None]:
    """Write the columns that need no vocabulary. Return the number of samples, and that of each part if samples have one."""
    parts: npt.NDArray[np.int64] | None = None
    with ExitStack() as stack:
        labels = stack.enter_context(NpyWriter(folder / "labels.npy", np.int8))
        dense = stack.enter_context(NpyWriter(folder / "dense.npy", np.float32, (len(schema.dense),)))
        optional: dict[str, NpyWriter] = {}
        for block in read_ahead(blocks):
            labels.append(block.labels)
            dense.append(block.dense)
            spill.append(block)
            for name, values in (("weights", block.weights), ("truth", block.probability)):
                if values is not None:
                    if name not in optional:
                        optional[name] = stack.enter_context(NpyWriter(folder / f"{name}.npy", np.float32))
                    optional[name].append(values)
            if block.part is not None:
                counted = np.bincount(block.part, minlength=len(PARTS))
                parts = counted if parts is None else parts + counted
            advance("read", len(block))
        for name, writer in optional.items():
            if writer.rows != labels.rows:
                raise ValueError(
                    f"{name} must be given for all samples or none, got {writer.rows} of {labels.rows}"
                )
    return labels.rows, None if parts is None else parts.tolist()


def read_ahead(blocks: Iterator[RowBlock]) -> Iterator[RowBlock]:
    """Read the next block in a thread while the caller uses this one; kernels and file reads release the GIL."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block


def _write_scaled(preprocessing: Preprocessing, spill: Spill, folder: Path, rows: int) -> None:
    """Fill in the dense columns that are standardized."""
    if not (columns := preprocessing.schema.standardized):
        return
    dense = np.load(folder / "dense.npy", mmap_mode="r+", allow_pickle=False)
    first = 0
    for values in spill.unscaled(rows):
        dense[first : first + len(values), columns] = scaled(values, preprocessing.scales)
        first += len(values)
    dense.flush()


def _write_ids(preprocessing: Preprocessing, spill: Spill, folder: Path, rows: int, advance: Advance) -> None:
    encoder, schema = preprocessing.encoder, preprocessing.schema
    with NpyWriter(folder / "ids.npy", np.int32, (len(schema.tokens),)) as ids:
        for tokens, missing in spill.blocks(rows):
            ids.append(encoder.encode(tokens, missing))
            advance("encode", len(missing))
    for bag in range(len(schema.bags)):
        with NpyWriter(folder / f"bag_{bag}_ids.npy", np.int32) as ids:
            for values in spill.column(len(schema.tokens) + bag, rows):
                ids.append(encoder.encode_values(bag, values))
        with NpyWriter(folder / f"bag_{bag}_offsets.npy", np.int64) as offsets:
            offsets.append(np.zeros(1, np.int64))
            end = 0
            for lengths in spill.lengths(bag, rows):
                offsets.append(end + np.cumsum(lengths, dtype=np.int64))
                end += int(lengths.sum())


class StageBar:
    """Shows the progress of a preparation by stage: a bar on a terminal, otherwise a log line per stage.

    Attributes:
        bytes_read: bytes of the input read so far; set by the caller.
        total_bytes: size of the input in bytes; None if unknown.
    """

    def __init__(self, total_rows: int | None = None) -> None:
        self.bytes_read = 0
        self.total_bytes: int | None = None
        self._total_rows = total_rows
        self._stage = ""
        self._rows = 0
        self._in_bytes = False
        self._started = 0.0
        self._bar: Any = None

    def advance(self, stage: str, rows: int) -> None:
        """Add `rows` samples to a stage. A new stage ends the previous one."""
        if stage != self._stage:
            self._end()
            self._begin(stage)
        self._rows += rows
        if self._in_bytes:
            self._bar.set_postfix_str(
                f"{self._rows / (time.monotonic() - self._started):,.0f} samples/s", refresh=False
            )
            self._bar.update(self.bytes_read - self._bar.n)
        else:
            self._bar.update(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the last stage."""
        self._end()

    def _begin(self, stage: str) -> None:
        self._in_bytes = bool(self.bytes_read)
        self._total_rows = self._rows or self._total_rows  # later stages have as many rows as the first
        self._stage, self._rows, self._started = stage, 0, time.monotonic()
        self._bar = progress_bar(
            stage,
            total=self.total_bytes if self._in_bytes else self._total_rows,
            unit="B" if self._in_bytes else " samples",
        )

    def _end(self) -> None:
        if self._bar is None:
            return
        self._bar.close()
        if self._bar.disable:
            seconds = time.monotonic() - self._started
            speed = f"{self._rows / seconds:,.0f} samples/s"
            logger.info("%s: %s samples in %.1f s, %s", self._stage, f"{self._rows:,}", seconds, speed)
        self._bar = None
        self.bytes_read = 0
