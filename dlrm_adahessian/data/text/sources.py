"""Where rows come from: a file, compressed or not, the published archive, a folder of files, or a pipe.

An input is a sequence of named byte streams. What a file is follows from its first bytes, not its name.
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
"""May open a text in UTF-8, and is no part of its first line."""
RAW = Path("data/raw")
"""Where rows are looked for when no path is given."""

_TAR_HEADER = 512  # bytes
_ENDINGS: Mapping[Format, tuple[str, ...]] = {
    "criteo": (".txt", ".tsv", *PACKED),
    "tsv": (".tsv", ".txt", *PACKED),
    "csv": (".csv", ".txt", *PACKED),
    "parquet": (".parquet", ".pq"),
}
_DAY = re.compile(r"day_[0-9]+")  # of the terabyte log, whose unpacked files have no suffix
_SUFFIXES = re.compile(r"(\.txt|\.tsv|\.csv)?(\.gz|\.xz|\.bz2|\.zst)?$")
_LISTED = 6  # names that a message lists; of more, those in the middle are left out
_SMALL = 64 << 20  # bytes; a larger file takes long enough to hash that its digest is remembered
_REMEDY = (
    "name a file of rows, plain or compressed, dac.tar.gz, a folder of such files, or - for standard input"
)
_WAYS = """
ways to rows:
  name them       --data-path FILE      (plain or compressed, dac.tar.gz, or a folder)
  describe them   --schema FILE.toml    (parquet, CSV, TSV: docs/own-data.md)
  pipe them       zcat FILE.gz | python -m dlrm_adahessian {command} --data-path -
  download them   python -m dlrm_adahessian download --config MIRROR.toml      (data/README.md)
  generate them   --dataset synthetic"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The text of one file of the input, decompressed.

    Attributes:
        name: what messages call it.
        read: gives up to so many bytes, none at the end; raises `DataError` when the file is damaged.
        total: bytes of the whole input on disk, before decompression; None for a pipe.
        consumed: bytes of the whole input taken so far, before decompression.
        identity: identifies this file by what was read of it, as `input_identity` does by all of it; None where its format
            is read from several places.
        live: somebody waits for the answer to each line, so that none may be read ahead.
        file: the file itself, where its format is read from several places; `read` gives nothing then.
    """

    name: str
    read: Callable[[int], bytes]
    total: int | None
    consumed: Callable[[], int]
    identity: Callable[[], dict[str, Any] | None]
    live: bool = False
    file: Any = None


class _Counted:
    """A file of which is known how much was read, a pipe's too; it hashes that, and says which file failed."""

    closed = False  # who opened the file closes it

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
                f"cannot read {self._name}: {error.strerror}; check the disk, or copy the file to another"
            ) from error
        self.position += len(data)
        self._hash.update(data)
        return data

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()


def is_prepared(path: str | Path) -> bool:
    """Whether a path names a folder of prepared rows, sealed by its manifest, rather than raw ones."""
    try:
        return (Path(path) / MANIFEST).exists()
    except OSError:  # no permission, or no name that a file can have: who reads it as raw rows says so
        return False


def require_rows(path: str | None, command: str, form: Format) -> None:
    """See that rows for training are there, raw or prepared, before anything slow begins; what they hold is not looked at.

    Args:
        path: as `--data-path`; None is the default place.
        command: which is to read them.
        form: of the rows.

    Raises:
        NoInputError: they are not; it lists the ways to get rows.
    """
    try:
        place = path or RAW
        if not is_pipe(place) and not is_prepared(place):
            input_files(place, form)
    except NoInputError as error:
        fact = str(error)
        for remedy in (_REMEDY, _remedy(form)):  # the ways say it at length
            fact = fact.removesuffix(f"; {remedy}")
        raise NoInputError(f"{fact}{_WAYS.format(command=command)}") from error


def is_pipe(path: str | Path) -> bool:
    """Return whether the input can be read only once: standard input, a named pipe, a device."""
    if str(path) == STANDARD_INPUT:
        return True
    mode = _status(Path(path)).st_mode
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def input_files(path: str | Path, form: Format) -> list[Path]:
    """List the files of an input that is no pipe.

    Args:
        path: a file or a folder.
        form: of the rows.

    Returns:
        The file; or train.txt of the folder; or all its files whose names end as those of the format do, or are
        day_0, day_1, ..., in natural order: day_2 before day_10.

    Raises:
        NoInputError: there is none.
        DataError: the folder holds a file twice, compressed and not.
    """
    path = Path(path)
    if not stat.S_ISDIR(_status(path).st_mode):
        return [path]
    held = _held_by(path)
    files = [file for file in held if _has_rows(file.name, form)]
    if not files:
        holds = f", but {listed(held)}" if held else ""
        wanted = ", ".join(f"*{ending}" for ending in _ENDINGS[form])
        raise NoInputError(f"{path} holds no {MEMBER} and no file {wanted} or day_*{holds}; {_remedy(form)}")
    stems = [list(same) for _, same in groupby(sorted(files, key=_stem), key=_stem)]
    chosen = [same for same in stems if path / MEMBER in same] or stems
    if twice := [same for same in chosen if len(same) > 1]:
        raise DataError(
            f"{path} must hold each file of rows once, and holds {listed(twice[0])}; move all but one of them away"
        )
    return sorted((file for (file,) in chosen), key=_natural)


def listed(files: Sequence[Path]) -> str:
    """Return the names of files for a message, those in the middle left out where there are many."""
    names = [file.name for file in files]
    if len(names) > _LISTED:
        names[_LISTED // 2 : -_LISTED // 2] = ["..."]
    return ", ".join(names)


def _held_by(folder: Path) -> list[Path]:
    """Return the files of a folder but the hidden ones, which systems leave there: `._day_0.txt`, `.DS_Store`."""
    try:
        seen = (file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())
        return sorted(seen, key=_natural)
    except OSError as error:  # it may be listed and not looked into
        raise _unreadable(folder, error) from error


def _has_rows(name: str, form: Format) -> bool:
    return name.endswith(_ENDINGS[form]) or bool(_DAY.fullmatch(name))


def _stem(file: Path) -> str:
    """Return a name without the suffixes that say nothing of the rows."""
    return _SUFFIXES.sub("", file.name)


def _natural(file: Path) -> tuple[list[str | int], str]:
    """Return the key of an order in which numbers within names count as numbers."""
    parts = re.split("([0-9]+)", file.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], file.name


def input_identity(files: Iterable[Path], cache_dir: Path) -> list[dict[str, Any]]:
    """Identify the content of files, whatever their names and their times.

    Args:
        files: of an input; `NoInputError` when one can't be read.
        cache_dir: keeps the digests of large ones.

    Returns:
        For each file its size and hash.
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
        form: of the rows.
        part_of: says for the name of a file in which part its rows are; files of a lower part come first, and those without
            one are left out.

    Yields:
        Sources; each is closed when the next is asked for.

    Raises:
        NoInputError: it can't be opened, or is a terminal.
        DataError: a file is empty or damaged, or of a format that a pipe cannot have.
    """
    if form == "parquet" and is_pipe(path):
        raise DataError("parquet cannot be read from a pipe, since its end says what is in it; give a file")
    if str(path) == STANDARD_INPUT:
        if sys.stdin.buffer.isatty():
            raise NoInputError(
                "standard input must hold rows and is a terminal; pipe them in, or name a file of them"
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
    """Return text that is read as it comes, for rows that somebody waits for.

    Args:
        file: plain text, a pipe for instance.

    Returns:
        The source; its reads are short where no more has come.
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
    """Look through compression and tar."""
    stream = unpacked(Peekable(raw), name)
    head = stream.peek(_TAR_HEADER)
    if not head:
        raise DataError(f"{name} must hold rows but is empty; {_remedy(form)}")
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
    """Say which inputs of a format have rows."""
    if form == "criteo":
        return _REMEDY
    if form == "parquet":
        return "name a parquet file with rows, or a folder of such files"
    kind = f"a {form.upper()} file with rows, plain or compressed"
    return f"name {kind}, a folder of such files, or - for standard input"


def _unreadable(path: Path, error: OSError) -> NoInputError:
    remedy = "let this user read it, or copy it" if isinstance(error, PermissionError) else _REMEDY
    return NoInputError(f"the data must be readable, and {path} is not: {error.strerror}; {remedy}")
