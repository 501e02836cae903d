"""Blocks of rows to planar memory maps, in bounded memory.

The text is parsed once. That pass writes what is final (labels, logarithms of the integers) and spills the
tokens as binary, since the vocabulary belongs to the training part, which is known when standard input
ends. Then the tokens of the training part are counted, and all are encoded.
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

from dlrm_adahessian.data.prepared.arrays import NpyWriter, TokenSpill
from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.prepared.vocabulary import Encoder, build_vocabulary
from dlrm_adahessian.data.rows import RowBlock
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.data.split import MIN_ROWS, split_rows
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.runtime.terminal import progress_bar

logger = logging.getLogger(__name__)


def write_prepared(
    blocks: Iterator[RowBlock],
    folder: Path,
    schema: Schema,
    *,
    min_count: int,
    advance: Callable[[str, int], None] = lambda stage, rows: None,
) -> dict[str, Any]:
    """Write labels.npy, dense.npy, ids.npy, the vocabulary, and truth.npy where blocks carry a probability.

    Args:
        blocks: labelled rows in time order.
        folder: an empty folder.
        schema: of the rows.
        min_count: tokens seen fewer times in the training part share row 0.
        advance: told the stage (`read`, `encode`) and how many more rows it has done.

    Returns:
        What the manifest says: number of rows, table heights, first rows of the parts, the schema.

    Raises:
        DataError: there are too few rows to split.
    """
    spill = TokenSpill(folder / "spill", schema)
    with closing(spill):
        rows = _write_columns(blocks, folder, schema, spill, advance)
    if rows < MIN_ROWS:
        raise DataError(f"{MIN_ROWS} good rows at least are needed, found {rows}; give more rows")
    split = split_rows(rows)
    train = len(split.train)
    vocabulary = build_vocabulary(
        lambda feature: spill.column(feature, train), spill.missing_counts(train), min_count=min_count
    )
    described = Preprocessing(schema, vocabulary).save(folder)
    _write_ids(vocabulary.encoder(len(schema.dense)), spill, folder, rows, advance)
    spill.remove()
    parts = {"train": [0, train], "test": [train, split.validation], "val": [split.validation, rows]}
    return {"rows": rows, "split": parts, "num_rows": list(vocabulary.num_rows), **described}


def _write_columns(
    blocks: Iterator[RowBlock],
    folder: Path,
    schema: Schema,
    spill: TokenSpill,
    advance: Callable[[str, int], None],
) -> int:
    """Write what needs no vocabulary; return the number of rows."""
    with ExitStack() as stack:
        labels = stack.enter_context(NpyWriter(folder / "labels.npy", np.int8))
        dense = stack.enter_context(NpyWriter(folder / "dense.npy", np.float32, (len(schema.dense),)))
        truth: NpyWriter | None = None
        for block in read_ahead(blocks):
            labels.append(block.labels)
            dense.append(block.dense)
            spill.append(block.tokens, block.missing)
            if block.probability is not None:
                truth = truth or stack.enter_context(NpyWriter(folder / "truth.npy", np.float32))
                truth.append(block.probability)
            advance("read", len(block))
        if truth and truth.rows != labels.rows:
            raise ValueError(f"all rows or none carry a probability, {truth.rows} of {labels.rows} do")
    return labels.rows


def read_ahead(blocks: Iterator[RowBlock]) -> Iterator[RowBlock]:
    """Make the next block in a thread while this one is used; the kernels and file reads release the GIL."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block


def _write_ids(
    encoder: Encoder, spill: TokenSpill, folder: Path, rows: int, advance: Callable[[str, int], None]
) -> None:
    with NpyWriter(folder / "ids.npy", np.int32, (spill.features,)) as ids:
        for tokens, missing in spill.blocks(rows):
            ids.append(encoder.encode(tokens, missing))
            advance("encode", len(missing))


class StageBar:
    """How far a long preparation has come, stage by stage: a bar on a terminal, a log line per stage elsewhere.

    Attributes:
        bytes_read: of the input; set by whoever reads it.
        total_bytes: of the input, None when unknown.
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
        """Count `rows` more rows of a stage; another stage ends the one before."""
        if stage != self._stage:
            self._end()
            self._begin(stage)
        self._rows += rows
        if self._in_bytes:
            self._bar.set_postfix_str(
                f"{self._rows / (time.monotonic() - self._started):,.0f} rows/s", refresh=False
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
        self._total_rows = self._rows or self._total_rows  # a later stage has the rows of the first
        self._stage, self._rows, self._started = stage, 0, time.monotonic()
        self._bar = progress_bar(
            stage,
            total=self.total_bytes if self._in_bytes else self._total_rows,
            unit="B" if self._in_bytes else " rows",
        )

    def _end(self) -> None:
        if self._bar is None:
            return
        self._bar.close()
        if self._bar.disable:
            seconds = time.monotonic() - self._started
            logger.info(
                "%s: %d rows in %.1f s, %.0f rows/s", self._stage, self._rows, seconds, self._rows / seconds
            )
        self._bar = None
        self.bytes_read = 0
