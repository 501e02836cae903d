"""Compare text that arrives in pieces with the csv module: each row is available as soon as it has arrived."""

import csv
import io
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlrm_adahessian.data.columnar import live
from dlrm_adahessian.data.columnar.reader import ColumnReader
from dlrm_adahessian.data.rows import ColumnBlock
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.data.text.bad_lines import BadLines
from dlrm_adahessian.data.text.sources import Source
from dlrm_adahessian.errors import DataError
from tests.data.columnar.slow import Explained, blocks_of, fnv, numbers_of, small

MARK = "\ufeff"


class Pipe:
    """Returns one piece per read; `asked` counts the reads so far."""

    def __init__(self, pieces: list[str]) -> None:
        self.asked = 0
        self._pieces = [piece.encode() for piece in pieces]

    def read(self, size: int) -> bytes:
        self.asked += 1
        return self._pieces[self.asked - 1] if self.asked <= len(self._pieces) else b""

    def blocks(self, schema: Schema, bad_rows: BadLines | None = None) -> Iterator[ColumnBlock]:
        source = Source("stdin", self.read, None, lambda: 0, lambda: None, live=True)
        return ColumnReader(schema, bad_rows or BadLines(), "optional").read(source)


def written(rows: list[list[object]], form: str, end: str, quoting: int = csv.QUOTE_ALL) -> list[str]:
    """Return the text of each row."""
    found = []
    for row in rows:
        text = io.StringIO()
        delimiter = {"csv": ",", "tsv": "\t"}[form]
        csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerow(row)
        found.append(text.getvalue())
    return found


def drawn(seed: int) -> tuple[list[str], list[list[object]], str]:
    """Return words with characters that need quotes, rows of them with a header, and a line end."""
    rng = random.Random(seed)
    words = ["".join(rng.choices('ab,"\n\t\ré', k=rng.randint(1, 6))) for _ in range(60)]
    rows = [["y", "q\nr,", "x", "t"], *([n % 2, rng.choice(words), n, word] for n, word in enumerate(words))]
    return words, rows, rng.choice(["\n", "\r\n", "\r"])


@pytest.mark.parametrize("form", ["csv", "tsv"])
@pytest.mark.parametrize("seed", range(4))
def test_each_row_is_answered_before_the_next_is_asked_for(seed: int, form: str) -> None:
    words, rows, end = drawn(seed)
    pipe = Pipe(written(rows, form, end))
    answered = [(pipe.asked, block.tokens[:, 0].tolist()) for block in pipe.blocks(small(form))]
    assert answered == [(1 + n, [fnv(word)]) for n, word in enumerate(words, 1)]


@pytest.mark.parametrize("form", ["csv", "tsv"])
@pytest.mark.parametrize("seed", range(4))
def test_rows_that_come_in_any_pieces_are_those_of_the_csv_module(seed: int, form: str) -> None:
    words, rows, end = drawn(seed)
    rng = random.Random(seed)
    text = rng.choice(["", MARK]) + "".join(written(rows, form, end)).removesuffix(rng.choice(["", end]))
    cuts = sorted(rng.choices(range(len(text)), k=rng.choice([3, 40, 400])))
    pipe = Pipe([piece for a, b in zip([0, *cuts], [*cuts, None], strict=True) if (piece := text[a:b])])
    assert [token for block in pipe.blocks(small(form)) for token in block.tokens[:, 0].tolist()] == [
        fnv(word) for word in words
    ]


def test_a_quote_within_a_value_is_none() -> None:
    """As in pyarrow and the csv module, quotes only count at the start of a value."""
    pieces = ['y,x,t\n0,1,5" disk\n', '1,2,"5"" disk"\n', '0,3,"a"b\n', '1,4,a "\n', '"0",5,"\n', '"\n']
    assert [row[2] for row in csv.reader(io.StringIO("".join(pieces), newline=""))] == [
        "t", '5" disk', '5" disk', "ab", 'a "', "\n"
    ]  # fmt: skip
    pipe = Pipe(pieces)
    found = [(pipe.asked, block.tokens[0, 0]) for block in pipe.blocks(small())]
    assert found == [
        (1, fnv('5" disk')),
        (2, fnv('5" disk')),
        (3, fnv("ab")),
        (4, fnv('a "')),
        (6, fnv("\n")),
    ]


def test_names_come_from_the_schema_or_first_and_labels_may_lack() -> None:
    assert numbers_of(list(Pipe(["0\t", "7\ta\n"]).blocks(small("tsv", header=["y", "x", "t"])))) == [7]
    assert numbers_of(list(Pipe(["\n", "t,", "x\r", "\na,7\n\n", "\n", "b,8"]).blocks(small()))) == [7, 8]


ROWS = ["0,1,a\n", "1,2\n", '0,x,"c\nc"\n', "\n", "1,4,d,e\n", "1,5,e\n", "7,7,g\n", "0,6"]


def test_bad_rows_have_their_numbers_however_they_come(tmp_path: Path) -> None:
    (tmp_path / "stdin").write_text("y,x,t\n" + "".join(ROWS))
    whole, at_once, one_by_one = Explained(), Explained(), Explained()
    assert numbers_of(list(blocks_of(tmp_path / "stdin", small(), whole, labels="optional"))) == [1, 5]
    for pieces, found in ((["y,x,t\n" + "".join(ROWS)], at_once), (["y,x,t\n", *ROWS], one_by_one)):
        assert numbers_of(list(Pipe(pieces).blocks(small(), found))) == [1, 5]
        assert found.reasons == whole.reasons
    numbers = [int(re.findall("row ([0-9]+):", reason)[0]) for reason in whole.reasons]
    assert numbers == [2, 3, 4, 6, 7]


@pytest.mark.parametrize("bad", ["1,2\n", "2,1,a\n"])
def test_a_bad_row_ends_it_before_the_next_is_asked_for(bad: str) -> None:
    pipe = Pipe(["y,x,t\n", "0,1,a\n", bad, "0,1,b\n"])
    blocks = pipe.blocks(small())
    assert numbers_of([next(blocks)]) == [1]
    with pytest.raises(DataError, match="^stdin, row 2: .*Fix the line"):
        next(blocks)
    assert pipe.asked == 3


def test_nothing_has_no_names() -> None:
    with pytest.raises(DataError, match=r"stdin is empty, so it has no column names\. Add"):
        list(Pipe(["\n"]).blocks(small()))
    assert list(Pipe([]).blocks(small(header=["y", "x", "t"]))) == []
    assert list(Pipe(["y,x,t\n"]).blocks(small())) == []


def test_quotes_that_never_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LONGEST", 64)
    pipe = Pipe(["y,x,t\n", '0,1,"', *["a,b,c\n"] * 100])
    with pytest.raises(DataError, match=r"stdin has a row of more than 64 bytes, which begins .*\. Close"):
        list(pipe.blocks(small()))
    assert pipe.asked < 20
