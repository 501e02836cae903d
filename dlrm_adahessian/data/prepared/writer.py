"""Blocks of rows to planar memory maps, in bounded memory.

The text is parsed once. That pass writes what is final (labels, logarithms of the integers) and spills the
tokens as binary, since the vocabulary belongs to the training part, which is known when standard input
ends. Then the tokens of the training part are counted, and all are encoded.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.prepared.spill import NpyWriter, TokenSpill
from dlrm_adahessian.data.prepared.vocabulary import Vocabulary, build_vocabulary
from dlrm_adahessian.data.schema import NUM_INTEGERS, NUM_TOKENS, RowBlock
from dlrm_adahessian.errors import DataError

DAYS = 7
MIN_ROWS = 2 * DAYS
"""Fewest rows of which each part gets one."""


@dataclass(frozen=True)
class Split:
    """Where the parts begin, as facebookresearch/dlrm cuts: 7 equal days, 6 train, half test, half val.

    Attributes:
        days: (8,) first row of each day, and the number of rows.
        validation: first row of the validation part; the test part begins with the last day.
    """

    days: tuple[int, ...]
    validation: int

    @property
    def train(self) -> range:
        """Rows of the first six days."""
        return range(self.days[DAYS - 1])

    @property
    def test(self) -> range:
        """First half of the last day."""
        return range(self.days[DAYS - 1], self.validation)

    @property
    def val(self) -> range:
        """Second half of the last day."""
        return range(self.validation, self.days[DAYS])


def split_rows(rows: int) -> Split:
    """Cut `rows` rows in time order; where they don't divide evenly, earlier parts are longer by one."""
    each, more = divmod(rows, DAYS)
    days = [day * each + min(day, more) for day in range(DAYS + 1)]
    return Split(tuple(days), days[DAYS] - (days[DAYS] - days[DAYS - 1]) // 2)


def dense_features(integers: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return log(1 + max(x, 0)) of (N, 13) integers as float32; missing ones are 0 and stay 0."""
    return np.log1p(np.maximum(integers, 0).astype(np.float64)).astype(np.float32)


def write_prepared(
    blocks: Iterator[RowBlock],
    folder: Path,
    *,
    min_count: int,
    advance: Callable[[str, int], None] = lambda stage, rows: None,
) -> dict[str, Any]:
    """Write labels.npy, dense.npy, ids.npy, the vocabulary, and truth.npy where blocks carry a probability.

    Args:
        blocks: labelled rows in time order.
        folder: an empty folder.
        min_count: tokens seen fewer times in the training part share row 0.
        advance: told the stage (`read`, `encode`) and how many more rows it has done.

    Returns:
        What the manifest says: number of rows, table heights, first rows of the parts.

    Raises:
        DataError: there are too few rows to split.
    """
    spill = TokenSpill(folder / "spill")
    with closing(spill):
        rows = _write_columns(blocks, folder, spill, advance)
    if rows < MIN_ROWS:
        raise DataError(f"{MIN_ROWS} good rows at least are needed, found {rows}; give more rows")
    split = split_rows(rows)
    train = len(split.train)
    vocabulary = build_vocabulary(
        lambda feature: spill.column(feature, train), spill.missing_counts(train), min_count=min_count
    )
    vocabulary.save(folder)
    _write_ids(vocabulary, spill, folder, rows, advance)
    spill.remove()
    parts = {"train": [0, train], "test": [train, split.validation], "val": [split.validation, rows]}
    return {"rows": rows, "split": parts, "num_rows": list(vocabulary.num_rows)}


def _write_columns(
    blocks: Iterator[RowBlock], folder: Path, spill: TokenSpill, advance: Callable[[str, int], None]
) -> int:
    """Write what needs no vocabulary; return the number of rows."""
    with ExitStack() as stack:
        labels = stack.enter_context(NpyWriter(folder / "labels.npy", np.int8))
        dense = stack.enter_context(NpyWriter(folder / "dense.npy", np.float32, (NUM_INTEGERS,)))
        truth: NpyWriter | None = None
        for block in read_ahead(blocks):
            labels.append(block.labels)
            dense.append(dense_features(block.integers))
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
    vocabulary: Vocabulary, spill: TokenSpill, folder: Path, rows: int, advance: Callable[[str, int], None]
) -> None:
    encoder = vocabulary.encoder()
    with NpyWriter(folder / "ids.npy", np.int32, (NUM_TOKENS,)) as ids:
        for tokens, missing in spill.blocks(rows):
            ids.append(encoder.encode(tokens, missing))
            advance("encode", len(missing))
