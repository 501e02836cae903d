"""Decompress gzip, xz, bzip2, and zstd streams in bounded memory. The first bytes tell the format."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

from dlrm_adahessian.data.text.archive import Readable
from dlrm_adahessian.errors import DataError

PACKED = (".gz", ".xz", ".bz2", ".zst")
"""Suffixes of compressed files."""

_GZIP, _XZ, _BZIP2, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh", b"\x28\xb5\x2f\xfd"
_LONGEST_MAGIC = len(_XZ)
_BLOCK = 1 << 16  # compressed bytes read at a time
_XZ_MEMORY = 1 << 28  # bytes; xz -9 needs 65 MiB, but a header can ask for 4 GiB


class Peekable:
    """A byte stream with a `peek`."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._head = b""

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes without consuming them; fewer only at the end."""
        while len(self._head) < size and (data := self._source.read(size - len(self._head))):
            self._head += data
        return self._head[:size]

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes; empty at the end."""
        if not self._head:
            return self._source.read(size)
        data, self._head = self._head[:size], self._head[size:]
        # Fill up the read: block boundaries must not depend on what was peeked at.
        return data + self._source.read(size - len(data)) if len(data) < size else data


class OpenFile:
    """Adapter that lets pyarrow read from a function."""

    closed = False

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read

    def close(self) -> None:
        """Do nothing. The caller closes the file that it opened."""


def unpacked(stream: Peekable, name: str) -> Peekable:
    """Decompress a stream if it is compressed.

    Args:
        stream: bytes of a file.
        name: name of the file in messages.

    Returns:
        The decompressed stream, whose `read` raises `DataError` if the file is damaged; or `stream` if not compressed.
    """
    head = stream.peek(_LONGEST_MAGIC)
    if head.startswith(_GZIP):
        return Peekable(_Gunzip(stream, name))
    if head.startswith(_XZ):
        make = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        return Peekable(_Streams(stream, name, "xz", make))
    if head.startswith(_BZIP2):
        return Peekable(_Streams(stream, name, "bzip2", bz2.BZ2Decompressor))
    if head.startswith(_ZSTD):
        return Peekable(_Zstd(stream, name))
    return stream


class _Gunzip:
    """Decompressed bytes of a gzip file."""

    def __init__(self, source: Readable, name: str) -> None:
        # GzipFile only calls `read` of its file.
        self._file = gzip.GzipFile(fileobj=source, mode="rb")  # pyright: ignore[reportCallIssue, reportArgumentType]
        self._name = name

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _damaged(self._name, "gzip", error) from error


class _Zstd:
    """Decompressed bytes of a zstd file."""

    def __init__(self, source: Readable, name: str) -> None:
        self._name = name
        import pyarrow as pa  # imported here: most commands do not need it and start faster

        self._stream = pa.CompressedInputStream(pa.PythonFile(OpenFile(source.read), "r"), "zstd")

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise _damaged(self._name, "zstd", error) from error


class _Decompressor(Protocol):
    """Decompressor of one xz or bzip2 stream."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Streams:
    """Decompressed bytes of concatenated streams, as `cat` and parallel compressors write them.

    lzma.LZMAFile is not used because it does not limit memory.
    """

    def __init__(self, source: Readable, name: str, kind: str, make: Callable[[], _Decompressor]) -> None:
        self._source, self._name, self._kind, self._make = source, name, kind, make
        self._stream = make()
        self._packed = b""  # read from the source but not yet decompressed

    def read(self, size: int, /) -> bytes:
        pieces: list[bytes] = []
        try:
            while size and (data := self._some(size)):
                pieces.append(data)
                size -= len(data)
        except (EOFError, OSError, lzma.LZMAError) as error:
            raise _damaged(self._name, self._kind, error) from error
        return b"".join(pieces)

    def _some(self, size: int) -> bytes:
        """Return 1 to `size` bytes; empty at the end."""
        while not self._stream.eof or self._begins_another():
            if self._stream.needs_input and not self._packed:
                self._packed = self._source.read(_BLOCK)
                if not self._packed:
                    raise EOFError("it ends in the middle of the compressed data")
            packed, self._packed = self._packed, b""
            if data := self._stream.decompress(packed, size):
                return data
        return b""

    def _begins_another(self) -> bool:
        """Continue with the next stream after the padding, and return whether there is one."""
        self._packed = self._stream.unused_data.lstrip(b"\0")
        while not self._packed and (more := self._source.read(_BLOCK)):
            self._packed = more.lstrip(b"\0")
        if self._packed:
            self._stream = self._make()
        return bool(self._packed)


def _damaged(name: str, kind: str, error: Exception) -> DataError:
    return DataError(f"{name} is not a complete {kind} file: {error}. Download or compress it again.")
