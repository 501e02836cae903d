"""Compare delimited text with the csv module: quotes, line ends, blocks, and rows with a wrong number of columns."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from dlrm_adahessian.data.columnar import delimited
from dlrm_adahessian.data.schema import from_dict
from dlrm_adahessian.data.text.bad_lines import BadLines
from dlrm_adahessian.errors import DataError
from tests.data.columnar.slow import Explained, blocks_of, fnv, numbers_of, read, small

ZSTD = pa.Codec("zstd")


def tokens_of(path: Path, form: str = "csv") -> list[int]:
    return [token for block in read(path, small(form)) for token in block.tokens[:, 0].tolist()]


@pytest.mark.parametrize("form", ["csv", "tsv"])
@pytest.mark.parametrize("seed", range(8))
def test_quotes_newlines_and_separators_in_any_block(
    seed: int, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "_BYTES", 64)
    rng = random.Random(seed)
    words = ["".join(rng.choices('ab,"\n\t\ré', k=rng.randint(0, 6))) for _ in range(300)]
    text = io.StringIO()
    writer = csv.writer(
        text,
        delimiter={"csv": ",", "tsv": "\t"}[form],
        lineterminator=rng.choice(["\n", "\r\n"]),
        quoting=csv.QUOTE_ALL,  # before Python 3.13 QUOTE_MINIMAL does not quote carriage returns
    )
    writer.writerows(
        [["y", "q\nr,", "x", "t"], *([n % 2, rng.choice(words), n, word] for n, word in enumerate(words))]
    )
    path = tmp_path / f"x.{form}"
    path.write_bytes(rng.choice([b"", b"\xef\xbb\xbf"]) + text.getvalue().encode())
    assert tokens_of(path, form) == [fnv(word) if word else 0 for word in words]


@pytest.mark.parametrize(
    "compress", [gzip.compress, lzma.compress, bz2.compress, lambda data: ZSTD.compress(data, asbytes=True)]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_compressed_text_with_any_line_ends(
    compress: Callable[[bytes], bytes], end: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv.packed"
    path.write_bytes(compress(end.join(["y,x,t", "0,1,a", "", "1,2,b"]).encode()))
    blocks = read(path, small())
    assert numbers_of(blocks) == [1, 2]
    assert blocks[0].labels.tolist() == [0, 1]


def test_text_without_a_first_line_of_names(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("0\t-\t1\ta\n1\t-\t2\tb\n0\t3\tc\n")
    with pytest.raises(DataError, match=r"^x\.tsv, row 3: expected 4 columns, found 3: '0\\t3\\tc'\. "):
        read(path, small("tsv", header=["y", "_", "x", "t"]))
    assert numbers_of(read(path, small("tsv", header=["y", "_", "x", "t"]), limit=2)) == [1, 2]


def test_only_what_the_schema_reads_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unread columns may occur twice, and may change from numbers to text in a later block."""
    monkeypatch.setattr(delimited, "_BYTES", 64)
    path = tmp_path / "x.csv"
    path.write_text("u,y,u,x,t\n" + "1,0,2.5,1,a\n" * 30 + "one,1,2,3,b\n")
    assert numbers_of(read(path, small())) == [1] * 30 + [3]


def test_tokens_are_text_whatever_a_first_block_looks_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "_BYTES", 64)
    words = ["007", "7", "1e3", "2024-01-01", "true", "NA", "null", " a "] * 5 + ["text"]
    path = tmp_path / "x.csv"
    path.write_text("y,x,t\n" + "".join(f"0,1,{word}\n" for word in words))
    assert tokens_of(path) == list(map(fnv, words))


ROWS = ["0,1,a", "1,2", "0,x,c", "1,4,d,e", '"1",5,"e"', "0,6", "7,7,g", "1,8,h"]
"""The good rows have the numbers 1, 5, and 8."""


def test_bad_rows_are_put_aside_in_order_with_their_numbers(tmp_path: Path) -> None:
    path, rejects = tmp_path / "x.csv", tmp_path / "rejects.jsonl"
    path.write_text("y,x,t\n" + "\n".join(ROWS))
    for limit, count in ((None, 5), (3, 5), (2, 3), (1, 0)):
        assert numbers_of(read(path, small(), rejects=rejects, limit=limit)) == [1, 5, 8][:limit]
        assert [json.loads(line) for line in rejects.read_text().splitlines()] == [
            "1,2", {"y": "0", "x": "x", "t": "c"}, "1,4,d,e", "0,6", {"y": "7", "x": "7", "t": "g"}
        ][:count]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (1, r"x\.csv, row 2: expected 3 columns, found 2: '1,2'\. Fix the line"),
        (2, r"x\.csv, row 2: column 'x' must be empty or a finite float32 number, found 'x'\. "),
        (3, r"x\.csv, row 2: expected 3 columns, found 4: '1,4,d,e'\. "),
        (6, r"x\.csv, row 2: column 'y' must be 0 or 1, found '7'\. "),
    ],
)
@pytest.mark.parametrize("size", [16, 1 << 20])
def test_the_first_bad_row_is_refused(
    first: int, message: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "_BYTES", size)
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["y,x,t", ROWS[0], *ROWS[first:]]))
    with pytest.raises(DataError, match=message):
        read(path, small())


@pytest.mark.parametrize("size", [16, 64, 1 << 20])
def test_numbers_of_bad_rows_count_odd_rows_and_quoted_newlines(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "_BYTES", size)
    path, bad_rows = tmp_path / "x.csv", Explained()
    rows = random.Random(size).choices(['0,1,"a\n"', "1,2", "0,x,c"], weights=[4, 1, 1], k=200)
    path.write_text("y,x,t\n" + "\n".join(rows))
    good = sum(map(len, blocks_of(path, small(), bad_rows)))
    bad = [number for number, row in enumerate(rows, 1) if not row.startswith("0,1")]
    assert good == 200 - len(bad)
    assert [reason.split(": ")[0] for reason in bad_rows.reasons] == [
        f"x.csv, row {number}" for number in bad
    ]


def test_a_file_of_odd_rows_is_refused_before_all_of_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "_BYTES", 1 << 12)
    monkeypatch.setattr(delimited, "_BARREN", 1 << 18)
    path = tmp_path / "x.csv"
    path.write_text("y,x,t\n" + "0;1;a\n" * 200_000)
    tracemalloc.start()
    with pytest.raises(
        DataError,
        match=r"^x\.csv, row 1: expected 3 columns, found 1: .*next 262,144 bytes is valid\. Change the format",
    ):
        read(path, small(), rejects=tmp_path / "rejects")
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("text", ["y,x,t\n", "\n\ny,x,t\r\n", "\ufeffy,x,t\n"])
def test_a_file_of_names_alone_has_no_rows(text: str, tmp_path: Path) -> None:
    (tmp_path / "x1.csv").write_text(text, newline="")
    (tmp_path / "x2.csv").write_text("y,x,t\n1,2,a\n")
    assert numbers_of(read(tmp_path, small())) == [2]


def test_each_file_names_its_columns_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "x2.csv").write_text("t,x,y\na,2,0\n")
    (tmp_path / "x10.csv").write_text("x,more,y,t\n10,?,1,b\n")
    (tmp_path / "x1.csv").write_text("y,x,t\n1,1,c\n")
    blocks = read(tmp_path, small())
    assert numbers_of(blocks) == [1, 2, 10]
    assert [block.labels.tolist() for block in blocks] == [[1], [0], [1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y,xx,t\n0,1,a\n", r"^x\.csv has no column 'x', which the schema reads\. Did you mean 'xx'\?"),
        ("0,1,a\n0,1,b\n", r"^x\.csv has no column 'y', which the schema reads"),
        (
            "y,x,t,x\n0,1,a,2\n",
            r"^x\.csv has 2 columns named 'x'\. Give them different names",
        ),
        ("y,x,t\n0,1,\udcff\n", r"^x\.csv is not a complete csv file: .*UTF8"),
        ("y" * 200_000, r"^Cannot read the column names in the first line of x\.csv: "),
    ],
)
def test_a_file_of_another_shape_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        read(path, small())


def test_damaged_zstd_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.zst"
    packed = ZSTD.compress(b"y,x,t\n" + b"0,1,a\n1,2,b\n" * 10_000, asbytes=True)
    path.write_bytes(packed[:-9])
    with pytest.raises(DataError, match=r"^x\.csv\.zst is not a complete zstd file: Truncated"):
        read(path, small())


def test_memory_is_that_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """300,000 rows of 10 numbers take 24 MB as float64; only a few blocks are in memory at a time."""
    monkeypatch.setattr(delimited, "_BYTES", 1 << 18)
    path = tmp_path / "x.csv"
    names = [f"x{n}" for n in range(10)]
    with path.open("w") as file:
        file.write(",".join(["y", "t", *names]) + "\n")
        for first in range(0, 300_000, 10_000):
            file.write("".join(f"0,{n % 9}{',1' * 10}\n" for n in range(first, first + 10_000)))
    schema = from_dict({"label": {"column": "y"}, "dense": [{"column": name} for name in names]})
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    rows = 0
    for block in blocks_of(path, schema, BadLines()):
        rows += len(block)
        assert pa.total_allocated_bytes() - before < 8 << 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 300_000
    assert peak < 12 << 20
