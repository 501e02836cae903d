"""Open the raw data: a plain or compressed file, the published archive, a folder of files, or a pipe.

An input is a sequence of named byte streams. The first bytes of a file determine its format, not its name.
"""

import logging
import os
import re
import stat
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BufferedReader
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from dlrm_adahessian.data.schema import Format
from dlrm_adahessian.data.text.archive import MEMBER, looks_like_tar, member_reader
from dlrm_adahessian.data.text.digests import remembered_digest
from dlrm_adahessian.data.text.foreign import refuse_foreign
from dlrm_adahessian.data.text.packed import PACKED, Peekable, unpacked
from dlrm_adahessian.errors import DataError, NoInputError, StorageError
from dlrm_adahessian.runs.sealed import MANIFEST, file_digest

STANDARD_INPUT = "-"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""May come first in UTF-8 text; it is not part of the first line."""
RAW = Path("data/raw")
"""Default folder of the raw data."""

_TAR_HEADER = 512  # bytes
_ENDINGS: Mapping[Format, tuple[str, ...]] = {
    "criteo": (".txt", ".tsv", *PACKED),
    "tsv": (".tsv", ".txt", *PACKED),
    "csv": (".csv", ".txt", *PACKED),
    "parquet": (".parquet", ".pq"),
}
_DAY = re.compile(r"day_[0-9]+")  # uncompressed files of the terabyte log have no suffix
_SUFFIXES = re.compile(r"(\.txt|\.tsv|\.csv)?(\.gz|\.xz|\.bz2|\.zst)?$")
_LISTED = 6  # names that a message lists; longer lists are cut in the middle
_SMALL = 64 << 20  # bytes; larger files take long enough to hash that their digests are cached
_REMEDY = "Pass a file (plain or compressed), dac.tar.gz, a folder, or - for standard input with --data-path."
_WAYS = """
Ways to provide data:
  pass a file      --data-path FILE      (plain or compressed, dac.tar.gz, or a folder)
  use your own     --schema FILE.toml    (parquet, CSV, TSV: docs/own-data.md)
  pipe it in       zcat FILE.gz | python -m dlrm_adahessian {command} --data-path -
  download it      python -m dlrm_adahessian download --config MIRROR.toml      (data/README.md)
  generate it      --dataset synthetic"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The decompressed text of one input file.

    Attributes:
        name: name of the file in messages.
        read: returns up to the given number of bytes, empty at the end; raises `DataError` if the file is damaged.
        total: size of the whole input on disk in bytes, before decompression; None for a pipe.
        consumed: returns how many bytes of the whole input were read so far, before decompression.
        identity: returns size and hash of what was read of this file, as `input_identity` does for all of it; returns
            None if the format needs random access.
        live: a client waits for the answer to each line, so lines must not be read ahead.
        file: the file object, if the format needs random access; `read` returns nothing then.
    """

    name: str
    read: Callable[[int], bytes]
    total: int | None
    consumed: Callable[[], int]
    identity: Callable[[], dict[str, Any] | None]
    live: bool = False
    file: Any = None


class _Counted:
    """A file or pipe that counts and hashes the bytes read, and names the file in errors."""

    closed = False  # the caller closes the file that it opened

    def __init__(self, file: BinaryIO, name: str, before: int) -> None:
        self.position = before
        self._before = before
        self._file = file
        self._name = name
        self._hash = xxhash.xxh3_128()

    def identity(self) -> dict[str, Any]:
        return {"bytes": self.position - self._before, "xxh3_128": self._hash.hexdigest()}

    def read(self, size: int, /) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise StorageError(
                f"Cannot read {self._name}: {error.strerror}. Check the disk, or copy the file to another disk."
            ) from error
        self.position += len(data)
        self._hash.update(data)
        return data

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()


def is_prepared(path: str | Path) -> bool:
    """Return whether a path is a folder of prepared data, which has a manifest, rather than raw data."""
    try:
        return (Path(path) / MANIFEST).exists()
    except OSError:  # no permission or an invalid name: reading it as raw data reports that
        return False


def require_rows(path: str | None, command: str, form: Format) -> None:
    """Check that raw or prepared data exists before anything slow begins, without reading it.

    Args:
        path: value of `--data-path`; None for the default folder.
        command: name of the command that reads the data, for the message.
        form: format of the raw data.

    Raises:
        NoInputError: there is no data; the message lists the ways to provide some.
    """
    try:
        place = path or RAW
        if not is_pipe(place) and not is_prepared(place):
            input_files(place, form)
    except NoInputError as error:
        fact = str(error)
        for remedy in (_REMEDY, _remedy(form)):  # `_WAYS` replaces it
            fact = fact.removesuffix(f" {remedy}")
        raise NoInputError(f"{fact}{_WAYS.format(command=command)}") from error


def is_pipe(path: str | Path) -> bool:
    """Return whether the input can be read only once: standard input, a named pipe, a device."""
    if str(path) == STANDARD_INPUT:
        return True
    mode = _status(Path(path)).st_mode
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def input_files(path: str | Path, form: Format) -> list[Path]:
    """List the files of an input that is not a pipe.

    Args:
        path: a file or a folder.
        form: format of the data.

    Returns:
        The file itself; or train.txt of the folder; or all its files with a suffix of the format or named day_0, day_1,
        ..., in natural order: day_2 before day_10.

    Raises:
        NoInputError: there is no such file.
        DataError: the folder has a file twice, compressed and uncompressed.
    """
    path = Path(path)
    if not stat.S_ISDIR(_status(path).st_mode):
        return [path]
    held = _held_by(path)
    files = [file for file in held if _has_rows(file.name, form)]
    if not files:
        holds = f"; it contains {listed(held)}" if held else ""
        wanted = ", ".join(f"*{ending}" for ending in _ENDINGS[form])
        raise NoInputError(
            f"{path} contains no {MEMBER} and no file named {wanted} or day_*{holds}. {_remedy(form)}"
        )
    stems = [list(same) for _, same in groupby(sorted(files, key=_stem), key=_stem)]
    chosen = [same for same in stems if path / MEMBER in same] or stems
    if twice := [same for same in chosen if len(same) > 1]:
        raise DataError(
            f"{path} contains the same data file more than once: {listed(twice[0])}. Keep one, and move the others away."
        )
    return sorted((file for (file,) in chosen), key=_natural)


def listed(files: Sequence[Path]) -> str:
    """Return the names of files for a message; a long list is cut in the middle."""
    names = [file.name for file in files]
    if len(names) > _LISTED:
        names[_LISTED // 2 : -_LISTED // 2] = ["..."]
    return ", ".join(names)


def _held_by(folder: Path) -> list[Path]:
    """Return the files of a folder, without hidden ones such as `._day_0.txt` and `.DS_Store`."""
    try:
        seen = (file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())
        return sorted(seen, key=_natural)
    except OSError as error:  # the folder exists but may not be readable
        raise _unreadable(folder, error) from error


def _has_rows(name: str, form: Format) -> bool:
    return name.endswith(_ENDINGS[form]) or bool(_DAY.fullmatch(name))


def _stem(file: Path) -> str:
    """Return a file name without the suffixes of format and compression."""
    return _SUFFIXES.sub("", file.name)


def _natural(file: Path) -> tuple[list[str | int], str]:
    """Return a sort key that compares numbers within names as numbers."""
    parts = re.split("([0-9]+)", file.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], file.name


def input_identity(files: Iterable[Path], cache_dir: Path) -> list[dict[str, Any]]:
    """Identify files by their content, whatever their names and times.

    Args:
        files: files of an input; raises `NoInputError` if one cannot be read.
        cache_dir: folder that caches the digests of large files.

    Returns:
        Size in bytes and hash of each file.
    """
    return [_identity(file, cache_dir) for file in files]


def _identity(path: Path, cache_dir: Path) -> dict[str, Any]:
    size = _status(path).st_size
    try:
        digest = file_digest(path) if size <= _SMALL else remembered_digest(path, cache_dir)
    except OSError as error:
        raise _unreadable(path, error) from error
    return {"bytes": size, "xxh3_128": digest}


def open_sources(
    path: str | Path, form: Format, *, part_of: Callable[[str], int | None] = lambda name: 0
) -> Generator[Source]:
    """Open the files of an input one after the other.

    Args:
        path: a file, a folder, or `-`.
        form: format of the data.
        part_of: returns the part of a file by its name; files of lower parts come first, and files with part None are
            skipped.

    Yields:
        Sources. Each is closed when the next one is requested.

    Raises:
        NoInputError: the input cannot be opened, or is a terminal.
        DataError: a file is empty or damaged, or the format cannot be read from a pipe.
    """
    if form == "parquet" and is_pipe(path):
        raise DataError(
            "Cannot read parquet from a pipe, because its metadata is at the end. Pass a file with --data-path."
        )
    if str(path) == STANDARD_INPUT:
        if sys.stdin.buffer.isatty():
            raise NoInputError(
                "Standard input is a terminal, not data. Pipe data in, or pass a file with --data-path."
            )
        yield _decode(_Counted(sys.stdin.buffer, "standard input", 0), "stdin", None, form)
        return
    parts = [(part, file) for file in input_files(path, form) if (part := part_of(file.name)) is not None]
    files = [file for _, file in sorted(parts, key=itemgetter(0))]
    if len(files) > 1:
        logger.info("reading the %d files of %s in this order: %s", len(files), path, listed(files))
    total = None if is_pipe(path) else sum(_status(file).st_size for file in files)
    position = 0
    for file in files:
        with closing(_open(file)) as raw:
            counted = _Counted(raw, str(file), position)
            if form == "parquet":
                yield _seekable(counted, file.name, total)
            else:
                yield _decode(counted, file.name, total, form)
            position = counted.position


def live_source(file: BufferedReader) -> Source:
    """Return a source that reads text as it arrives, for a client that waits for each answer.

    Args:
        file: plain text, for example a pipe.

    Returns:
        The source. Its reads return what has arrived, which may be less than requested.
    """
    return Source(
        name="stdin", read=file.read1, total=None, consumed=lambda: 0, identity=lambda: None, live=True
    )


def _seekable(raw: _Counted, name: str, total: int | None) -> Source:
    return Source(
        name=name,
        read=lambda size: b"",
        total=total,
        consumed=lambda: raw.position,
        identity=lambda: None,
        file=raw,
    )


def _decode(raw: _Counted, name: str, total: int | None, form: Format) -> Source:
    """Decompress a file, and open the training file if it is a tar archive."""
    stream = unpacked(Peekable(raw), name)
    head = stream.peek(_TAR_HEADER)
    if not head:
        raise DataError(f"{name} is empty. {_remedy(form)}")
    refuse_foreign(head, name)
    read = stream.read
    if looks_like_tar(head):
        read = member_reader(stream, name)
        name = f"{name}/{MEMBER}"
    return Source(name=name, read=read, total=total, consumed=lambda: raw.position, identity=raw.identity)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _remedy(form: Format) -> str:
    """Return which inputs of a format are accepted."""
    if form == "criteo":
        return _REMEDY
    if form == "parquet":
        return "Pass a parquet file, or a folder of parquet files, with --data-path."
    kind = f"a {form.upper()} file (plain or compressed)"
    return f"Pass {kind}, a folder of such files, or - for standard input with --data-path."


def _unreadable(path: Path, error: OSError) -> NoInputError:
    if isinstance(error, FileNotFoundError):
        return NoInputError(f"File not found: {path}. {_REMEDY}")
    remedy = "Grant this user read access, or copy it." if isinstance(error, PermissionError) else _REMEDY
    return NoInputError(f"Cannot read {path}: {error.strerror}. {remedy}")
