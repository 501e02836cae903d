"""Compressed files: any number of streams decompress to the original bytes, in little memory."""

import bz2
import gc
import gzip
import io
import lzma
import tracemalloc
import zlib
from collections.abc import Callable

import pyarrow as pa
import pytest

from dlrm_adahessian.data.text.packed import Peekable, unpacked
from dlrm_adahessian.errors import DataError
from tests.data.text.reading import TEXT


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


KINDS = {"gzip": gzip.compress, "xz": lzma.compress, "bzip2": bz2.compress}
ALL = {**KINDS, "zstd": zstd}
Compress = Callable[[bytes], bytes]


def opened(data: bytes) -> Peekable:
    return unpacked(Peekable(io.BytesIO(data)), "rows")


@pytest.fixture(params=ALL)
def compress(request: pytest.FixtureRequest) -> Compress:
    return ALL[request.param]


@pytest.mark.parametrize("size", [1, 3, 4096, 1 << 30])
def test_streams_of_a_file_follow_one_another(size: int, compress: Compress) -> None:
    text = TEXT[:20_000]
    padding = b"" if compress is zstd else bytes(8)  # zstd has no padding
    stream = opened(compress(text[:7]) + compress(b"") + padding + compress(text[7:]) + padding)
    assert b"".join(iter(lambda: stream.read(size), b"")) == text
    assert stream.read(size) == b""


def test_a_read_is_short_at_the_end_only(compress: Compress) -> None:
    stream = opened(compress(TEXT))
    sizes = [len(piece) for piece in iter(lambda: stream.read(70_001), b"")]
    assert set(sizes[:-1]) == {70_001}


def test_other_bytes_are_left_as_they_are() -> None:
    for data in (b"", b"\x1f", b"BZ", b"1\t2\n", TEXT):
        stream = opened(data)
        assert (stream.peek(2), stream.read(1 << 30)) == (data[:2], data)


def test_what_is_no_stream_behind_one_is_refused(compress: Compress) -> None:
    stream = opened(compress(TEXT) + b"1\t2\n")
    with pytest.raises(DataError, match="rows is not a complete .* Download or compress it again"):
        while stream.read(1 << 20):
            pass


def test_a_bomb_takes_no_memory(compress: Compress) -> None:
    stream = opened(compress(bytes(24 << 20)))
    tracemalloc.start()
    read = sum(map(len, iter(lambda: stream.read(1 << 16), b"")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == 24 << 20
    assert peak < 16 << 20  # the dictionary of xz alone takes 8 MiB


def test_an_xz_file_that_asks_for_gigabytes_is_refused() -> None:
    data = bytearray(lzma.compress(TEXT, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]))
    at = 12 + 4  # offset of the dictionary size: in the header of the first block, after the stream header
    data[at] = 40  # 4 GiB
    header = 4 * (data[12] + 1)
    data[12 + header - 4 : 12 + header] = checksum(data[12 : 12 + header - 4])
    with pytest.raises(DataError, match="not a complete xz file: Memory usage limit exceeded"):
        opened(bytes(data)).read(1)


def checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


@pytest.mark.parametrize("cut", [7, 100, -1], ids=str)
def test_a_cut_or_damaged_file_is_refused(cut: int, compress: Compress) -> None:
    packed = compress(TEXT[:100_000])
    damaged = packed[:10] + b"\xff" * 50 + packed[60:]
    for data in (packed[:cut], damaged):
        stream = opened(data)
        with pytest.raises(
            DataError, match=r"rows is not a complete .* file: .*\. Download or compress it again"
        ):
            while stream.read(1 << 20):
                pass


def test_zstd_leaves_nothing_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """Arrow writes errors there that occur while it closes a file."""
    stream = opened(zstd(TEXT))
    assert stream.read(1 << 30) == TEXT
    del stream
    gc.collect()
    assert capfd.readouterr().err == ""
