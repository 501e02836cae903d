"""Written text is in the published format, and reads back as the same samples."""

import re

import numpy as np

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.columns import CriteoBlock
from dlrm_adahessian.data.criteo.reader import read_rows
from dlrm_adahessian.data.criteo.text import format_rows
from dlrm_adahessian.data.rows import NO_LABEL
from dlrm_adahessian.data.synthetic.generator import row_blocks
from dlrm_adahessian.data.text.bad_lines import BadLines
from tests.data.oracle import random_block, rows_of, source_of


def test_formatted_rows_are_read_back() -> None:
    rng = np.random.default_rng(0)
    block = random_block(rng, 1000, distinct=2**20)
    block.integers[:5, 0] = [2**63 - 1, -(2**63), 0, -1, 10]
    block.missing[:5] = 0
    block.labels[5] = NO_LABEL
    (read,) = read_rows(source_of(format_rows(block)), BadLines(), labels="optional")
    for column in ("labels", "integers", "tokens", "missing"):
        assert (getattr(read, column) == getattr(block, column)).all(), column


def test_generated_rows_are_read_back() -> None:
    blocks = list(row_blocks(SyntheticConfig(), 3000))
    assert rows_of(read_rows(source_of(b"".join(map(format_rows, blocks))), BadLines())) == rows_of(blocks)


def test_format_is_the_published_one() -> None:
    block = CriteoBlock(
        labels=np.array([1], np.int8),
        integers=np.arange(-6, 7)[None],
        tokens=np.full((1, 26), 0xC0FFEE, np.uint32),
        missing=np.array([1 << 12 | 1 << 38], np.uint64),
    )
    integers = b"\t".join([b"%d" % x for x in range(-6, 6)] + [b""])
    assert format_rows(block) == b"1\t" + integers + b"\t00c0ffee" * 25 + b"\t\n"
    assert re.fullmatch(rb"[01](\t-?\d*){13}(\t[0-9a-f]{8}|\t){26}\n", format_rows(block))
