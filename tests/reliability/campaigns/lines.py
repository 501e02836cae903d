"""Invalid lines and random files for `prepare` and the parser: rejected with line and column, or quarantined unchanged."""

import contextlib
import gzip
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

from dlrm_adahessian import cli
from dlrm_adahessian.data import raw
from dlrm_adahessian.data.prepared.folder import open_prepared
from tests.data.criteo.test_reader import BAD_LINES, FIELDS, PLACES, check_random_file
from tests.data.oracle import parse, random_line
from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import ROOT

_LINES = [random_line(random.Random(seed)) for seed in range(60)]
_AT = {"first": 0, "middle": 29, "block boundary": 41, "last": 59}
_TEXT = b"\n".join(_LINES) + b"\n"
_ACCEPTED, _REFUSED, _ASIDE = "accepted", "refused", "aside"

# 20 kinds of invalid lines. Kinds with several forms use another form at each place.
_OF_PARSER = {
    "too few columns": ["too few columns"],
    "too many columns": ["too many columns"],
    "blank line": ["blank line"],
    "label 2": ["label 2"],
    "label empty": ["label empty"],
    "label a word": ["label a word"],
    "integer a word": ["integer a word"],
    "integer 1e400, 2^63, 1.5, nan": ["integer 1e400", "integer 2^63", "integer 1.5", "integer nan"],
    "hex zzzz": ["hex zzzz"],
    "hex of 9 digits": ["hex of 9 digits"],
    "NUL byte": ["NUL byte"],
    "not UTF-8": ["not UTF-8"],
    "unbalanced quote": ["unbalanced quote"],
    "lone CR": ["lone CR"],
    "10 MB field": ["10 MB field"],
}


class Case:
    """A file with an irregularity.

    Attributes:
        data: bytes of the file.
        line, column, reason: expected error in strict mode.
        fate: expected outcome.
    """

    def __init__(
        self, data: bytes, line: int = 0, column: int = 0, reason: str = "", fate: str = _ASIDE
    ) -> None:
        """Store the attributes."""
        self.data, self.line, self.column, self.reason, self.fate = data, line, column, reason, fate


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Read each kind of invalid line at each place, in strict and quarantine mode, or nothing if `times` is 0."""
    if not times:
        return
    truth = prepared(folder, Case(_TEXT), "strict", 1 << 20)[1]
    tried = "20 kinds of odd line at 4 places, strict and quarantine, through prepare"
    with counting(12, tried, 2 * len(PLACES) * 20) as (outcome, show):
        for kind, place, case in cases():
            start = sum(len(line) + 1 for line in _LINES[: _AT[place]])
            block = start + 100 if place == "block boundary" else 1 << 20
            for mode in ("strict", "quarantine"):
                outcome.times += 1
                for wrong in _judge(folder, case, mode, block, truth):
                    lose = outcome.miss if wrong.startswith("silent") else outcome.lose
                    lose(f"{kind}, {place}, {mode}: {wrong}")
                show()
    yield outcome


def random_files(times: int, folder: Path) -> Iterator[Outcome]:
    """Compare the parser with the oracle on random files."""
    with counting(13, "random files against a pure-Python oracle, in blocks of 64 B to 16 MiB", times) as (
        outcome,
        show,
    ):
        for seed in range(times):
            outcome.times += 1
            try:
                check_random_file(seed, folder)
            except AssertionError as error:
                outcome.miss(f"seed {seed}: {str(error)[:300]}")
            show()
    yield outcome
    yield _bounds_checked(max(1, times // 20), folder)


def _bounds_checked(times: int, folder: Path) -> Outcome:
    """Do the same in a process whose compiled code checks array bounds."""
    with counting(13, "the same with NUMBA_BOUNDSCHECK=1", times) as (outcome, show):
        cache = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(folder / "numba")}
        command = [sys.executable, "-c", _CHECKED, str(times), str(folder)]
        done = subprocess.run(
            command, env=os.environ | cache, cwd=ROOT, capture_output=True, text=True, check=False
        )
        outcome.times = times
        if done.returncode:
            outcome.lose(f"exit {done.returncode}: {done.stderr[-500:]}")
        show()
    return outcome


# First check that bounds checking is active.
_CHECKED = """
import sys
from pathlib import Path
import numba, numpy as np
from tests.data.criteo.test_reader import check_random_files
try:
    numba.njit(lambda array, index: array[index])(np.zeros(3), 7)
except IndexError:
    check_random_files(int(sys.argv[1]), Path(sys.argv[2]))
else:
    sys.exit("numba checks no index")
"""


def cases() -> Iterator[tuple[str, str, Case]]:
    """Yield kind, place, and file."""
    for index, place in enumerate(PLACES):
        at = _AT[place]
        for kind, forms in _OF_PARSER.items():
            bad, column, reason = BAD_LINES[forms[index % len(forms)]]
            yield kind, place, Case(_with(at, bad), at + 1, column, reason)
        crlf = b"\n".join(line + b"\r" if n == at else line for n, line in enumerate(_LINES)) + b"\n"
        yield "CRLF", place, Case(crlf, fate=_ACCEPTED)
        mark = b"\xef\xbb\xbf"
        marked = _with(at, mark + _LINES[at])
        yield (
            "byte order mark",
            place,
            Case(marked, fate=_ACCEPTED) if at == 0 else Case(marked, at + 1, 1, "byte order mark"),
        )
        yield "truncated last line", place, _cut_short(index)
        yield (
            "empty file",
            place,
            Case((b"", mark, gzip.compress(b""), gzip.compress(mark))[index], fate=_REFUSED),
        )
        packed = gzip.compress(_TEXT)
        length = (12, len(packed) // 2, len(packed) - 9, len(packed) - 1)[index]
        yield "truncated gzip", place, Case(packed[:length], fate=_REFUSED)


def _with(at: int, line: bytes) -> bytes:
    lines = [*_LINES]
    lines[at] = line
    # A trailing blank line is only the end of the line before it.
    return b"\n".join(lines) + b"\n"


def _cut_short(index: int) -> Case:
    """Return a file that ends inside a field of its last line: the label, an integer, a token, or the last token."""
    columns = (1, 8, 22, 40)[index]
    last = b"\t".join([*FIELDS[: columns - 1], b"0" if columns < 14 else b"0badc"])
    reason = "the line ends in column" if columns < 40 else r"\(C26\)"
    return Case(b"\n".join([*_LINES[:-1], last]), len(_LINES), columns, reason)


def _judge(folder: Path, case: Case, mode: str, block: int, truth: object) -> Iterator[str]:
    """Yield errors in the outcome of a reading."""
    code, rows_read, printed, rejects = prepared(folder, case, mode, block)
    if case.fate is _ACCEPTED:
        if code:
            yield f"expected success, exit {code}: {printed[-200:]}"
        elif rows_read != truth:
            yield "silent: the samples changed"
    elif case.fate is _REFUSED or mode == "strict":
        whole = "are required|is empty|is not a complete"
        place = f"train.txt:{case.line}:{case.column}: .*{case.reason}" if case.line else whole
        if code == 0:
            yield "silent: it was accepted"
        elif code != 65 or not re.search(place, printed):
            yield f"expected exit 65 and {place}, exit {code}: {printed[-300:]}"
    elif code:
        yield f"expected quarantine, exit {code}: {printed[-200:]}"
    else:
        yield from _judge_quarantine(case, json.loads(printed), rejects)


def _judge_quarantine(case: Case, found: dict[str, int], rejects: bytes) -> Iterator[str]:
    rows, bad = parse(case.data)
    if (found["rows_kept"], found["rows_rejected"]) != (len(rows), len(bad)) or len(bad) != 1:
        yield f"silent: {found} for {len(rows)} valid samples and {len(bad)} bad lines"
    if found["rows_read"] != found["rows_kept"] + found["rows_rejected"]:
        yield f"silent: input lines differ from kept plus rejected ones: {found}"
    if rejects != b"".join(bad):
        yield "silent: rejects.tsv has other bytes"


def prepared(folder: Path, case: Case, mode: str, block: int) -> tuple[int, object, str, bytes]:
    """Run `prepare`. Return its exit code, the samples, its output and leftovers, and the quarantined bytes."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    text = folder / "train.txt"
    text.write_bytes(case.data)
    flags = ["--data-path", str(text), "--data.cache-dir", str(folder / "cache"), "--data.min-count", "1"]
    out, err = io.StringIO(), io.StringIO()
    reading: Callable[..., object] = partial(raw.read_rows, block_bytes=block)
    with (
        mock.patch.object(raw, "read_rows", _in_blocks(reading)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = cli.main(["prepare", *flags, "--bad-rows", mode, "--json"])
    if code:
        left = [path.name for path in (folder / "cache").glob("*") if path.suffix != ".lock"]
        return (0 if left else code), left, f"{err.getvalue()} left behind: {left}", b""
    data = open_prepared(Path(json.loads(out.getvalue())["folder"]))
    rows = [np.asarray(part).tobytes() for part in (data.labels, data.features.dense, data.features.ids)]
    rejects = data.folder / "rejects.tsv"
    return 0, rows, out.getvalue(), rejects.read_bytes() if rejects.exists() else b""


def _in_blocks(reading: Callable[..., object]) -> Callable[..., object]:
    return lambda *args, **options: reading(*args, **{k: v for k, v in options.items() if k != "block_bytes"})
