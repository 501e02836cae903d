"""Compressed bytes as a stream, in bounded memory: gzip, xz, bzip2 and zstd, each known by its first bytes."""

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
_BLOCK = 1 << 16  # bytes of a file that are decompressed at a time
_XZ_MEMORY = 1 << 28  # bytes; xz -9 asks for 65 MiB, and a header may ask for 4 GiB


class Peekable:
    """Bytes of which the first can be looked at."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._head = b""

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes without taking them, fewer only at the end."""
        while len(self._head) < size and (data := self._source.read(size - len(self._head))):
            self._head += data
        return self._head[:size]

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes, none at the end."""
        if not self._head:
            return self._source.read(size)
        data, self._head = self._head[:size], self._head[size:]
        # Not short: the blocks of a file should not depend on what was looked at.
        return data + self._source.read(size - len(data)) if len(data) < size else data


class OpenFile:
    """Bytes as the file that pyarrow asks for."""

    closed = False

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read

    def close(self) -> None:
        """Do nothing: who opened the bytes closes them."""


def unpacked(stream: Peekable, name: str) -> Peekable:
    """Look through compression.

    Args:
        stream: bytes of a file.
        name: what messages call it.

    Returns:
        What was compressed, reading of which raises a `DataError` when the file is damaged; other bytes as they are.
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
        # Reading takes no more of the file than `read`.
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
        import pyarrow as pa  # commands that read no such file start without it

        self._stream = pa.CompressedInputStream(pa.PythonFile(OpenFile(source.read), "r"), "zstd")

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise _damaged(self._name, "zstd", error) from error


class _Decompressor(Protocol):
    """One compressed stream, of xz or bzip2."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Streams:
    """Decompressed bytes of compressed streams, one after the other, as `cat` and parallel compressors leave them.

    lzma.LZMAFile would do but for the memory, which it does not limit.
    """

    def __init__(self, source: Readable, name: str, kind: str, make: Callable[[], _Decompressor]) -> None:
        self._source, self._name, self._kind, self._make = source, name, kind, make
        self._stream = make()
        self._packed = b""  # taken from the source, and not decompressed

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
        """Return 1 to `size` bytes, none at the end."""
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
        """Go on to the next stream of the file, if there is one behind the padding."""
        self._packed = self._stream.unused_data.lstrip(b"\0")
        while not self._packed and (more := self._source.read(_BLOCK)):
            self._packed = more.lstrip(b"\0")
        if self._packed:
            self._stream = self._make()
        return bool(self._packed)


def _damaged(name: str, kind: str, error: Exception) -> DataError:
    return DataError(f"{name} must be a whole {kind} file: {error}; fetch or compress it again")
