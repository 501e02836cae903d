"""Every way to provide raw data."""

import bz2
import gzip
import io
import logging
import lzma
import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import xxhash

from dlrm_adahessian.data.schema import Format
from dlrm_adahessian.data.text.sources import (
    input_files,
    input_identity,
    is_pipe,
    is_prepared,
    open_sources,
    require_rows,
)
from dlrm_adahessian.errors import DataError, NoInputError
from dlrm_adahessian.runs.sealed import MANIFEST
from tests.data.text.reading import TEXT, read_all
from tests.data.text.test_archive import ARCHIVE, member, tar
from tests.processes import plain_user

REMEDY = r"Pass a file \(plain or compressed\), dac.tar.gz"


def test_a_folder_is_prepared_when_it_has_a_manifest(tmp_path: Path) -> None:
    assert not is_prepared(tmp_path)
    assert not is_prepared("x" * 10_000), "not a valid file name"
    (tmp_path / MANIFEST).touch()
    assert is_prepared(tmp_path)


@pytest.mark.parametrize("name", ["train.txt", "odd name", "named.gz", "rows.csv"])
def test_plain_text_under_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(TEXT)
    assert read_all(tmp_path / name) == {name: TEXT}


@pytest.mark.parametrize("name", ["train.txt.gz", "no_suffix"])
def test_gzip_is_known_by_its_bytes(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:]))
    assert read_all(str(tmp_path / name)) == {name: TEXT}


def test_folder_gives_the_training_file_or_all_by_name(tmp_path: Path) -> None:
    for name, data in {
        "b.tsv": b"b\n",
        "a.txt": b"a\n",
        "c.gz": gzip.compress(b"c\n"),
        "d.csv": b"d\n",
        "e.xz": lzma.compress(b"e\n"),
        "f.bz2": bz2.compress(b"f\n"),
    }.items():
        (tmp_path / name).write_bytes(data)
    assert list(read_all(tmp_path).items()) == [
        ("a.txt", b"a\n"),
        ("b.tsv", b"b\n"),
        ("c.gz", b"c\n"),
        ("e.xz", b"e\n"),
        ("f.bz2", b"f\n"),
    ]
    (tmp_path / "train.txt").write_bytes(TEXT)
    assert read_all(tmp_path) == {"train.txt": TEXT}


def test_files_are_read_in_natural_order_and_it_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    days = list(range(24))
    for day in random.Random(0).sample(days, 24):
        (tmp_path / f"day_{day}").write_bytes(b"%d\n" % day)
    (tmp_path / "day_0.md5").write_bytes(b"other\n")
    assert list(read_all(tmp_path).items()) == [(f"day_{day}", b"%d\n" % day) for day in days]
    (told,) = caplog.messages
    assert told == (
        f"reading the 24 files of {tmp_path} in this order: day_0, day_1, day_2, ..., day_21, day_22, day_23"
    )


def test_each_number_in_a_name_counts(tmp_path: Path) -> None:
    ordered = ["1_9.txt", "1_10.txt", "02_1.txt", "2_1.txt", "10_1.txt", "day-1.gz", "day-2.gz", "day.txt"]
    for name in ordered:
        (tmp_path / name).write_bytes(b"x")
    assert [file.name for file in input_files(tmp_path, "criteo")] == ordered


def test_one_file_needs_no_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "day_0").write_bytes(TEXT)
    assert read_all(tmp_path) == {"day_0": TEXT}
    assert not caplog.messages


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "train.txt.gz"),
        ("day_0", "day_0.gz"),
        ("day_7.txt", "day_7.gz"),
        ("a.tsv.xz", "a.tsv.bz2"),
    ],
)
def test_rows_that_a_folder_holds_twice_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in (*names, "day_1", "other.txt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"more than once: .*\. Keep one") as caught:
        input_files(tmp_path, "criteo")
    assert all(name in str(caught.value) for name in names)
    (tmp_path / names[1]).unlink()
    assert tmp_path / names[0] in input_files(tmp_path, "criteo")


def test_a_copy_of_what_is_not_read_does_no_harm(tmp_path: Path) -> None:
    for name in ("train.txt", "test.txt", "test.txt.gz"):
        (tmp_path / name).write_bytes(b"x")
    assert input_files(tmp_path, "criteo") == [tmp_path / "train.txt"]


def test_files_that_systems_hide_in_a_folder_are_no_rows(tmp_path: Path) -> None:
    for name in ("day_0.txt", "._day_0.txt", ".DS_Store", ".day_1.txt", "._day_2"):
        (tmp_path / name).write_bytes(b"x")
    assert input_files(tmp_path, "criteo") == [tmp_path / "day_0.txt"]
    assert input_files(tmp_path / "._day_0.txt", "criteo") == [
        tmp_path / "._day_0.txt"
    ]  # an explicit path is read
    (tmp_path / "day_0.txt").unlink()
    with pytest.raises(NoInputError, match=r"no file .* or day_\*\. Pass"):
        input_files(tmp_path, "criteo")


def test_a_folder_without_rows_says_what_it_holds(tmp_path: Path) -> None:
    for day in range(24):
        (tmp_path / f"day_{day}.parquet").write_bytes(b"x")
    with pytest.raises(
        NoInputError, match=r"; it contains day_0\.parquet, day_1.*, \.\.\., .*day_23\.parquet\. Pass"
    ):
        input_files(tmp_path, "criteo")


@pytest.mark.parametrize(
    "packed", [bytes, gzip.compress, lzma.compress, bz2.compress, lambda data: tar(member("train.txt", data))]
)
def test_standard_input(packed: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(packed(TEXT))))
    assert is_pipe("-")
    assert list(read_all("-").values()) == [TEXT]


def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _, terminal = os.openpty()
    with os.fdopen(terminal, "rb") as typed:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=typed))
        with pytest.raises(NoInputError, match=r"Standard input is a terminal, not data\. Pipe data in"):
            read_all("-")


def test_named_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert is_pipe(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(TEXT,))
    writer.start()
    assert read_all(pipe) == {"pipe": TEXT}
    writer.join()


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["absent", "empty folder"])
def test_no_input(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "data")
    with pytest.raises(NoInputError, match=REMEDY) as caught:
        read_all(tmp_path / "data")
    assert caught.value.exit_code == 66


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["absent", "empty folder"])
def test_missing_rows_name_the_ways_to_get_some(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    make(Path("data/raw"))
    for path in (None, "data/raw"):
        with pytest.raises(NoInputError) as caught:
            require_rows(path, "compare", "criteo")
        told = str(caught.value).splitlines()
        assert "data/raw" in told[0]
        for line, way in zip(
            told[2:], ("FILE", "--schema", "compare --data-path -", "download", "synthetic"), strict=True
        ):
            assert way in line
            assert len(line) <= 100


def test_rows_that_are_there_are_required_in_vain(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"")
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "manifest.json").write_text("{}")
    for path in ("-", tmp_path / "rows", tmp_path / "prepared"):
        require_rows(str(path), "train", "criteo")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(TEXT)
    (tmp_path / "data").chmod(0)
    with pytest.raises(NoInputError, match="Permission denied"):
        read_all(tmp_path / "data")


@pytest.mark.parametrize(
    "data", [b"", gzip.compress(b""), tar(member("other.txt", b"x"))], ids=["empty", "gzip", "archive"]
)
def test_nothing_to_read(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(data)
    with pytest.raises(DataError, match="data (is empty|does not contain)") as caught:
        read_all(tmp_path / "data")
    assert caught.value.exit_code == 65


@pytest.mark.parametrize(
    ("form", "remedy"),
    [
        ("criteo", REMEDY),
        ("csv", r"\. Pass a CSV file \(plain or compressed\), a folder"),
        ("tsv", r"\. Pass a TSV file \(plain or compressed\), a folder"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_an_empty_file_asks_for_one_of_its_own_format(
    pack: Callable[[bytes], bytes], form: Format, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / "data").write_bytes(pack(b""))
    with pytest.raises(DataError, match=f"data is empty.*{remedy}") as caught:
        next(open_sources(tmp_path / "data", form))
    assert ("dac.tar.gz" in str(caught.value)) == (form == "criteo")


@pytest.mark.parametrize(
    ("form", "remedy"),
    [("parquet", "Pass a parquet file, or a folder"), ("tsv", "Pass a TSV file")],
)
def test_a_folder_without_rows_asks_for_files_of_their_format(
    form: Format, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / "notes.md").touch()
    with pytest.raises(NoInputError, match=f"contains no .*; it contains notes.md. {remedy}"):
        next(open_sources(tmp_path, form))
    with pytest.raises(NoInputError) as caught:
        require_rows(str(tmp_path), "train", form)
    assert str(caught.value).splitlines()[0].endswith("notes.md."), "the list of ways follows"


DAMAGEABLE = {
    "gzip": gzip.compress(TEXT),
    "xz": lzma.compress(TEXT),
    "bzip2": bz2.compress(TEXT),
    "archive": tar(*ARCHIVE),
    "archive in xz": lzma.compress(tar(*ARCHIVE, mode="w")),
}


@pytest.mark.parametrize("kind", DAMAGEABLE)
def test_file_cut_short_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    packed = DAMAGEABLE[kind]
    for length in (6, 9, 12, len(packed) // 2, len(packed) - 9, len(packed) - 1):
        (tmp_path / "data").write_bytes(packed[:length])
        with pytest.raises(DataError, match="is not a complete"):
            read_all(tmp_path / "data")


@pytest.mark.parametrize("kind", DAMAGEABLE)
def test_flipped_bit_in_a_compressed_file_is_refused(kind: str, tmp_path: Path) -> None:
    packed = DAMAGEABLE[kind]
    for at in range(20, len(packed), len(packed) // 20):
        (tmp_path / "data").write_bytes(packed[:at] + bytes([packed[at] ^ 4]) + packed[at + 1 :])
        with pytest.raises(DataError, match="data (is not|does not|must|is empty)"):
            read_all(tmp_path / "data")


def test_identity_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(TEXT)
    (tmp_path / "b").write_bytes(TEXT)
    (tmp_path / "c").write_bytes(TEXT[:-1] + b"\t")
    os.utime(tmp_path / "b", (0, 0))
    a, b, c = (input_identity([tmp_path / name], tmp_path) for name in "abc")
    assert a == b == [{"bytes": len(TEXT), "xxh3_128": xxhash.xxh3_128_hexdigest(TEXT)}]
    assert a != c


def test_identity_of_a_large_file_is_that_of_its_content_too(tmp_path: Path) -> None:
    size = 65 << 20
    zeros = [{"bytes": size, "xxh3_128": xxhash.xxh3_128_hexdigest(bytes(size))}]
    for name, mtime in (("large", 1), ("copy", 2)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
        os.utime(tmp_path / name, (mtime, mtime))
        assert input_identity([tmp_path / name], tmp_path / "cache") == zeros
    with (tmp_path / "copy").open("r+b") as file:
        file.seek(size // 2)
        file.write(b"x")
    assert input_identity([tmp_path / "copy"], tmp_path / "cache") != zeros
    assert input_files(tmp_path / "large", "criteo") == [tmp_path / "large"]


@pytest.mark.parametrize("mode", [0, 0o400])
@plain_user.needed
def test_a_folder_that_may_not_be_looked_into_is_told_by_its_name(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"")
    folder.chmod(mode)
    program = (
        "import sys; from dlrm_adahessian.data.text.sources import require_rows as f; "
        "f(sys.argv[1], 'train', 'criteo')"
    )
    told = plain_user.python(program, folder, environment={}).stderr
    assert f"NoInputError: Cannot read {folder}: Permission denied. Grant this user" in told
