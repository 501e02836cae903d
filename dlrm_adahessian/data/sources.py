# pyright: basic
"""Where raw rows come from: a file, a gzip, the one member of an archive, a folder, standard input.

Everything is read as a stream. An archive is never extracted: the bytes of `train.txt` pass through, and member names
are looked at, never used as paths.
"""

import gzip
import io
import sys
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from dlrm_adahessian.errors import DataError, NoInputError

STDIN = "-"
_GZIP_MAGIC = b"\x1f\x8b"
_TAR_MAGIC_AT, _TAR_MAGIC = 257, b"ustar"
_MEMBER = "train.txt"
HOW_TO_GET = (
    "see data/README.md for how to get the Criteo rows, or try --dataset synthetic, which needs no files"
)


@dataclass(frozen=True)
class Source:
    """One stream of raw lines.

    Attributes:
        name: what errors call it.
        stream: the bytes, decompressed.
        consumed: bytes read so far of the file as it lies on disk.
    """

    name: str
    stream: IO[bytes]
    consumed: Callable[[], int]


def source_files(path: str) -> list[Path]:
    """List the files that `path` stands for, in order; none for standard input.

    Args:
        path: a file, a folder, or `-`.

    Returns:
        The files.

    Raises:
        NoInputError: there is nothing there.
    """
    if path == STDIN:
        return []
    place = Path(path)
    if place.is_dir():
        whole = place / _MEMBER
        found = (
            [whole]
            if whole.is_file()
            else sorted(f for e in ("*.txt", "*.tsv", "*.gz") for f in place.glob(e))
        )
        if not found:
            raise NoInputError(f"{path} holds no {_MEMBER}, *.txt, *.tsv or *.gz; {HOW_TO_GET}")
        return found
    if not place.exists():
        raise NoInputError(f"{path} does not exist; {HOW_TO_GET}")
    return [place]


def open_sources(path: str) -> Iterator[Source]:
    """Yield the streams of `path` one after another; each is closed when the next one is asked for.

    Args:
        path: a file, a folder, or `-`.

    Yields:
        The sources.

    Raises:
        NoInputError: a file cannot be opened.
    """
    if path == STDIN:
        counted = _Counted(sys.stdin.buffer)
        yield from _decoded("standard input", io.BufferedReader(counted, 1 << 20), counted.tell)  # pyright: ignore[reportArgumentType]
        return
    for file in source_files(path):
        try:
            raw = file.open("rb", buffering=1 << 20)
        except OSError as error:
            raise NoInputError(f"cannot open {file}: {error.strerror}; make it readable") from error
        with raw:
            yield from _decoded(str(file), raw, raw.raw.tell)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]


def _decoded(name: str, raw: io.BufferedReader, consumed: Callable[[], int]) -> Iterator[Source]:
    if raw.peek(2)[:2] != _GZIP_MAGIC:
        yield Source(name, raw, consumed)
        return
    with damaged_gzip(name):
        unzipped = io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20)
        head = unzipped.peek(_TAR_MAGIC_AT + len(_TAR_MAGIC))
    if head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        yield _archive_member(name, unzipped, consumed)  # pyright: ignore[reportArgumentType]
    else:
        yield Source(name, unzipped, consumed)


def _archive_member(name: str, unzipped: io.BufferedReader, consumed: Callable[[], int]) -> Source:
    with damaged_gzip(name):
        archive = tarfile.open(fileobj=unzipped, mode="r|")  # noqa: SIM115, the stream outlives this function
        for member in archive:
            place = PurePosixPath(member.name)
            if place.is_absolute() or ".." in place.parts or not (member.isfile() or member.isdir()):
                raise DataError(
                    f"{name}: an archive holds plain files under relative names only, found {member.name!r}; "
                    f"unpack {_MEMBER} by hand and name that"
                )
            if place.name == _MEMBER and (stream := archive.extractfile(member)):
                return Source(f"{name}:{_MEMBER}", stream, consumed)
    raise DataError(
        f"{name}: the archive holds no {_MEMBER}; name the archive that Criteo published, or the file"
    )


@contextmanager
def damaged_gzip(name: str) -> Generator[None]:
    """Turn what a damaged gzip or archive raises into `DataError`.

    Args:
        name: of the source.

    Yields:
        Nothing.

    Raises:
        DataError: the block read damaged data.
    """
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise DataError(
            f"{name}: the compressed data is damaged or cut short ({error}); fetch it again"
        ) from error


class _Counted(io.RawIOBase):
    """Count the bytes read of a stream that has no position."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._count = stream, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        self._count += len(block)
        return len(block)

    def tell(self) -> int:
        return self._count
