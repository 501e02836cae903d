"""Prepared data is reused, shared by processes, prepared again if damaged, and never incomplete."""

import io
import itertools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dlrm_adahessian.data import raw
from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.prepared.folder import PreparedData, open_prepared
from dlrm_adahessian.data.raw import prepare_raw
from dlrm_adahessian.data.text import digests, sources
from dlrm_adahessian.errors import DataError, NoInputError
from tests.data.oracle import parse, random_line
from tests.faults import Outcome, disk_full, each_operation

LINES = [random_line(random.Random(seed)) for seed in range(140)]
TEXT = b"\n".join(LINES) + b"\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Return a file of 140 good lines."""
    path = tmp_path / "train.txt"
    path.write_bytes(TEXT)
    return path


def prepare(path: Path | str, cache: Path, **options: object) -> PreparedData:
    chosen = {"rows": None, "bad_rows": "strict"} | options
    most_bad = chosen.pop("most_bad", 0.01)
    return prepare_raw(
        "criteo", CRITEO, str(path), DataConfig(cache_dir=cache, min_count=2, max_rejected=most_bad), **chosen
    )


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_rows_are_those_of_the_oracle(text: Path, tmp_path: Path) -> None:
    data = prepare(text, tmp_path / "cache")
    rows = parse(TEXT)[0]
    assert data.labels.tolist() == [row.label for row in rows]
    expected = [[np.log1p(max(float(x or 0), 0.0)) for x in row.integers] for row in rows]
    assert np.allclose(data.features.dense, expected, rtol=2**-23, atol=0)
    assert (data.split.train, data.split.test, data.split.val) == (
        range(120),
        range(120, 130),
        range(130, 140),
    )
    assert (data.features.ids.min(axis=0) >= 0).all()
    assert (data.features.ids.max(axis=0) < data.preprocessing.num_rows).all()
    assert data.truth is None
    assert data.rejected == 0
    with pytest.raises(ValueError, match="read-only"):
        data.labels[0] = 1


def test_second_run_reuses_the_first(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(text, tmp_path / "cache")
    renamed = text.rename(tmp_path / "other name.tsv")
    monkeypatch.setattr(raw, "open_sources", lambda *path, **more: pytest.fail("the text was read again"))
    second = prepare(renamed, tmp_path / "cache")
    assert (second.fingerprint, second.folder) == (first.fingerprint, first.folder)
    assert second.manifest == first.manifest


def test_whatever_changes_the_rows_changes_the_folder(text: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    found = {prepare(text, cache).fingerprint, prepare(text, cache, rows=100).fingerprint}
    found.add(prepare(text, cache, bad_rows="quarantine").fingerprint)
    found.add(
        prepare_raw(
            "criteo",
            CRITEO,
            str(text),
            DataConfig(cache_dir=cache, min_count=3),
            rows=None,
            bad_rows="strict",
        ).fingerprint
    )
    text.write_bytes(TEXT.replace(b"\n", b"\r\n"))
    found.add(prepare(text, cache).fingerprint)
    assert len(found) == 5 == len(folders(cache))


def test_limit_takes_the_first_good_rows_of_all_files(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for n in range(7):
        (raw / f"day{n}.txt").write_bytes(b"\n".join(LINES[20 * n : 20 * n + 20]))
    whole, some = prepare(raw, tmp_path / "cache"), prepare(raw, tmp_path / "cache", rows=50)
    assert len(whole.labels) == 140
    assert len(some.labels) == 50
    assert (some.features.dense == whole.features.dense[:50]).all()


def test_quarantine_counts_and_keeps_the_bytes(
    text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [b"\n", b"2" + LINES[0][1:] + b"\r\n", b"\xff\x00\n"]
    text.write_bytes(bad[0] + TEXT + bad[1] + TEXT + bad[2])
    with pytest.raises(DataError, match=r"^train\.txt:1:1: "):
        prepare(text, tmp_path / "cache")
    assert folders(tmp_path / "cache") == []
    data = prepare(text, tmp_path / "cache", bad_rows="quarantine")
    assert (len(data.labels), data.rejected) == (280, 3)
    assert (data.folder / "rejects.tsv").read_bytes() == b"".join(bad)
    assert "3 of 283 lines are bad. First bad line: train.txt:1:1: the line is blank" in caplog.text
    assert prepare(text, tmp_path / "cache", bad_rows="quarantine").rejected == 3


def test_too_large_a_share_of_bad_lines_is_refused_whether_prepared_before_or_not(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may write -1 for a missing token. Without these lines, a biased quarter of the data would remain."""
    fields = [line.split(b"\t") for line in LINES]
    minus = [b"\t".join([*row[:20], b"-1", *row[21:]]) for row in fields[:105]]
    cut = [b"\t".join(row[:38]) for row in fields[105:108]]
    text.write_bytes(b"\n".join([*cut, *minus, *LINES[108:]]))
    told = (
        rf"77\.1% of the lines of {text} are bad \(108, .* at most 1% are allowed\. Most frequent reason: "
        r"column 21 \(C7\) must be empty or 8 hexadecimal digits\. .*--data\.max-rejected"
    )
    with pytest.raises(DataError, match=told):
        prepare(text, tmp_path / "cache", bad_rows="quarantine", most_bad=0.01)
    monkeypatch.setattr(raw, "open_sources", lambda *path, **more: pytest.fail("the text was read again"))
    with pytest.raises(DataError, match=told):
        prepare(text, tmp_path / "cache", bad_rows="quarantine", most_bad=0.01)
    assert prepare(text, tmp_path / "cache", bad_rows="quarantine", most_bad=108 / 140).rejected == 108


def test_a_few_bad_lines_of_a_small_file_are_put_aside(text: Path, tmp_path: Path) -> None:
    """The limit does not apply to fewer than 100 bad lines, here 99 of 140."""
    text.write_bytes(b"\n".join([*(b"\t".join(line.split(b"\t")[:38]) for line in LINES[:99]), *LINES[99:]]))
    assert prepare(text, tmp_path / "cache", bad_rows="quarantine").rejected == 99


@pytest.mark.parametrize("good", [0, 13])
def test_quarantine_of_all_lines_repeats_the_first_reason(good: int, text: Path, tmp_path: Path) -> None:
    bad = [b"\t".join(line.split(b"\t")[:38]) for line in LINES]
    text.write_bytes(b"\n".join([*bad, *LINES[:good]]))
    told = rf"Found {good} valid samples; .* 140 of {140 + good} lines are bad\. First bad line: train\.txt:1:38: exp"
    with pytest.raises(DataError, match=told):
        prepare(text, tmp_path / "cache", bad_rows="quarantine")
    assert folders(tmp_path / "cache") == []


def test_pipe_is_found_again_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(data: bytes) -> PreparedData:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        return prepare("-", tmp_path / "cache")

    first, again, other = piped(TEXT), piped(TEXT), piped(TEXT + TEXT)
    assert first.folder == again.folder != other.folder
    assert sorted(map(len, (first.labels, other.labels))) == [140, 280]
    assert folders(tmp_path / "cache") == sorted([first.folder.name, other.folder.name])
    assert (open_prepared(first.folder).features.ids == again.features.ids).all()


def test_missing_input_leaves_no_cache(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="nowhere"):
        prepare(tmp_path / "nowhere", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_text_that_changes_while_it_is_read_is_refused(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_rows = raw.read_rows

    def read_and_change(*args: object, **options: object):
        yield from read_rows(*args, **options)
        text.write_bytes(TEXT + TEXT)

    monkeypatch.setattr(raw, "read_rows", read_and_change)
    with pytest.raises(DataError, match="changed while it was read"):
        prepare(text, tmp_path / "cache")
    assert folders(tmp_path / "cache") == []


@pytest.mark.parametrize("small", [1 << 20, 0], ids=["hashed each time", "remembered"])
def test_rows_are_known_by_their_content_whatever_the_times_of_the_file(
    small: int, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_SMALL", small)
    monkeypatch.setattr(digests, "_SETTLED", -1)
    times = text.stat()
    first = prepare(text, tmp_path / "cache")
    with text.open("r+b") as file:  # in place: keeps the inode and the size
        file.write(flipped(TEXT))
    os.utime(text, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = prepare(text, tmp_path / "cache")
    assert second.folder != first.folder
    assert second.labels.tolist() == [1 - label for label in first.labels]
    copy = tmp_path / "copy.txt"
    copy.write_bytes(TEXT)
    os.utime(copy, (1, 1))
    monkeypatch.setattr(raw, "open_sources", lambda *path, **more: pytest.fail("the text was read again"))
    assert prepare(copy, tmp_path / "cache").folder == first.folder


def flipped(text: bytes) -> bytes:
    """Return lines with inverted labels."""
    return b"".join(
        (b"1" if line.startswith(b"0") else b"0") + line[1:] for line in text.splitlines(keepends=True)
    )


def test_text_that_was_another_only_while_it_was_read_is_refused(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content matches the name of the folder before and after the reading, but not during it."""
    open_sources = raw.open_sources

    def flip_and_restore(*path: object, **options: object):
        text.write_bytes(flipped(TEXT))
        yield from open_sources(*path, **options)
        text.write_bytes(TEXT)

    monkeypatch.setattr(raw, "open_sources", flip_and_restore)
    with pytest.raises(DataError, match="changed while it was read"):
        prepare(text, tmp_path / "cache")
    assert folders(tmp_path / "cache") == []


PROGRAM = """
import logging, sys, time
logging.basicConfig(level=logging.INFO, format="%(message)s")
from pathlib import Path
from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data import raw
from dlrm_adahessian.data.criteo.columns import CRITEO
path, cache, seconds = sys.argv[1:]
read_rows = raw.read_rows
def slowly(*args, **options):
    for block in read_rows(*args, **options):
        print("reading", flush=True)
        time.sleep(float(seconds))
        yield block
raw.read_rows = slowly
data = raw.prepare_raw("criteo", CRITEO, path, DataConfig(cache_dir=Path(cache)), rows=None, bad_rows="strict")
print("rows", len(data.labels), flush=True)
"""


def start(text: Path, cache: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(text), str(cache), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_four_processes_one_prepares(text: Path, tmp_path: Path) -> None:
    processes = [start(text, tmp_path / "cache", 1) for _ in range(4)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert sum("reading" in out for out, _ in outputs) == 1
    assert all("rows 140" in out for out, _ in outputs)
    assert sum("waiting for another process" in err for _, err in outputs) >= 1


def test_killed_writer_is_replaced_by_the_one_that_waits(text: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    writer = start(text, cache, 60)
    assert writer.stdout
    assert writer.stdout.readline() == "reading\n"
    waiter = start(text, cache, 0)
    assert waiter.stderr
    assert "waiting" in waiter.stderr.readline()
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    out, err = waiter.communicate(timeout=60)
    assert waiter.returncode == 0, err
    assert "rows 140" in out
    assert len(folders(cache)) == 1, "the leftovers of the killed process are gone"


@pytest.mark.campaign
def test_full_disk_at_any_operation_leaves_no_half_cache(text: Path, tmp_path: Path) -> None:
    prepare(text, tmp_path / "warm")  # compile before the forks
    numbers = itertools.count()
    outcomes = []
    for cache, outcome in each_operation(
        lambda cache: prepare(text, cache), disk_full, lambda: tmp_path / f"cache{next(numbers)}"
    ):
        outcomes.append(outcome)
        whole = [name for name in folders(cache) if not name.startswith(".")] if cache.exists() else []
        for name in whole:
            assert len(open_prepared(cache / name).labels) == 140
        if outcome is Outcome.SURVIVED:
            assert whole
    assert Outcome.REPORTED in outcomes
