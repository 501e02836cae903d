import io

import numpy as np
import pytest

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.sources import Source
from dlrm_adahessian.data.synthetic import row_blocks
from dlrm_adahessian.data.tsv import BadLines, format_rows, read_rows
from dlrm_adahessian.errors import DataError
from tests.data.oracle import parse, rows_of

TOKENS = b"\t".join(b"%08x" % (i * 2654435761 % 2**32) for i in range(26))
GOOD = b"1\t" + b"\t".join(str(i - 2).encode() for i in range(13)) + b"\t" + TOKENS
FIELDS = GOOD.split(b"\t")


def with_field(column, value):
    return b"\t".join([*FIELDS[:column], value, *FIELDS[column + 1 :]])


BAD = {
    "too few columns": b"\t".join(FIELDS[:-1]),
    "too many columns": GOOD + b"\t",
    "blank line": b"",
    "label 2": with_field(0, b"2"),
    "label empty": with_field(0, b""),
    "label word": with_field(0, b"yes"),
    "integer word": with_field(3, b"seven"),
    "integer 1e400": with_field(3, b"1e400"),
    "integer 2^63": with_field(3, b"9223372036854775808"),
    "integer 1.5": with_field(3, b"1.5"),
    "integer nan": with_field(3, b"nan"),
    "lone minus": with_field(3, b"-"),
    "hex zzzz": with_field(20, b"zzzzzzzz"),
    "hex of 9 digits": with_field(20, b"123456789"),
    "hex of 7 digits": with_field(39, b"1234567"),
    "NUL byte": with_field(5, b"\x00"),
    "not UTF-8": with_field(20, b"\xff\xfe123456"),
    "unbalanced quote": with_field(20, b'"1234567'),
    "lone CR": with_field(20, b"1234\r678"),
    "BOM inside": b"\xef\xbb\xbf" + GOOD,
    "10 MB field": with_field(20, b"a" * 10_000_000),
    "truncated last line": b"\t".join(FIELDS[:7]),
}


def read(data, policy=None, **options):
    return rows_of(read_rows(Source("rows", io.BytesIO(data), lambda: 0), policy or BadLines(), **options))


def place(bad, where):
    lines = {"first": [bad, GOOD, GOOD], "middle": [GOOD, bad, GOOD], "last": [GOOD, GOOD, bad]}
    return b"\n".join(lines[where]) + b"\n"


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_refused_with_its_place(kind, where):
    if kind == "BOM inside" and where == "first":
        pytest.skip("there a byte order mark is accepted")
    line = {"first": 1, "middle": 2, "last": 3}[where]
    with pytest.raises(DataError, match=rf"^rows:{line}:\d+:.*quarantine$"):
        read(place(BAD[kind], where))


@pytest.mark.parametrize("block_bytes", [64, 1000, 1 << 20])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "10 MB field"])
def test_quarantine_keeps_the_bytes_and_the_count(kind, where, block_bytes, tmp_path):
    if kind == "BOM inside" and where == "first":
        pytest.skip("there a byte order mark is accepted")
    policy = BadLines(tmp_path / "rejects.tsv")
    rows = read(place(BAD[kind], where), policy, block_bytes=block_bytes)
    policy.close()
    assert (len(rows), policy.count) == (2, 1)
    assert (tmp_path / "rejects.tsv").read_bytes() == BAD[kind] + b"\n"


@pytest.mark.parametrize("labels", ["required", "optional"])
def test_random_files_equal_the_oracle(labels, tmp_path):
    rng = np.random.default_rng(5)
    alphabet = [
        *BAD.values(),
        *[GOOD] * 30,
        GOOD + b"\r",
        with_field(4, b""),
        with_field(30, b""),
        with_field(2, b"-7"),
    ]
    alphabet = [line for line in alphabet if len(line) < 1000]
    for trial in range(300):
        lines = [alphabet[i] for i in rng.integers(0, len(alphabet), rng.integers(1, 12))]
        data = b"\n".join(lines) + (b"\n" if rng.random() < 0.5 else b"")
        mutated = bytearray(data)
        for _ in range(rng.integers(0, 4) if mutated else 0):
            mutated[rng.integers(len(mutated))] = rng.choice(
                np.frombuffer(b'\t\n\r0aF-"\x00\xff 9', np.uint8)
            )
        data = bytes(mutated)
        if not data.removeprefix(b"\xef\xbb\xbf"):
            continue
        expected_rows, expected_bad = parse(data, labels)
        policy = BadLines(tmp_path / f"{trial}.tsv")
        rows = read(data, policy, labels=labels, block_bytes=int(rng.choice([64, 333, 1 << 24])))
        policy.close()
        assert rows == expected_rows
        assert policy.quarantine.read_bytes() == b"".join(expected_bad)


def test_crlf_and_a_byte_order_mark_change_nothing():
    data = (GOOD + b"\n") * 3
    assert read(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n")) == read(data)
    assert read(data[:-1]) == read(data)


def test_an_empty_file_is_refused():
    with pytest.raises(DataError, match="rows is empty"):
        read(b"")


def test_formatted_rows_read_back_the_same():
    blocks = list(row_blocks(SyntheticConfig(), 3000))
    assert read(b"".join(map(format_rows, blocks))) == rows_of(blocks)
