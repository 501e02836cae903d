"""Stream one member of a tar archive. Nothing is extracted to disk.

An archive is untrusted input. Members whose path leaves the folder, links, and devices are never read. Headers that
would make tarfile read an unbounded amount into memory are an error.
"""

import logging
import tarfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from shlex import quote
from typing import Protocol, Self

from dlrm_adahessian.errors import DataError

MEMBER = "train.txt"

_MAX_HEADER = 1 << 20  # bytes of a pax or GNU long-name header, which tarfile holds in memory
_MAX_MEMBERS = 1000  # tarfile keeps each in memory; dac.tar.gz has four
_BLOCK = 1 << 20  # bytes
_LISTED = 6  # members that a message lists

logger = logging.getLogger(__name__)


class Readable(Protocol):
    """A source of bytes, read in order."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; empty at the end."""
        ...


class _BoundedInfo(tarfile.TarInfo):
    """A tar header that refuses large extensions."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Parse a header block.

        Args:
            buf: 512 bytes.
            encoding: encoding of the names.
            errors: how to handle names that do not decode.

        Returns:
            The header.

        Raises:
            ReadError: the header is sparse, or is a large one that tarfile would read into memory.
        """
        info = super().frombuf(buf, encoding, errors)
        extension = info.type not in tarfile.SUPPORTED_TYPES or info.type in (
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        )
        if info.type == tarfile.GNUTYPE_SPARSE or (extension and info.size > _MAX_HEADER):
            raise tarfile.ReadError(f"refused a header of type {info.type!r} with {info.size} bytes")
        return info


def looks_like_tar(head: bytes) -> bool:
    """Return whether the first 512 bytes have the magic of a tar archive."""
    return head[257:262] == b"ustar"


def member_reader(archive: Readable, name: str) -> Callable[[int], bytes]:
    """Find the training file in an archive and return the function that reads it.

    At the end of the member, the rest of the archive is read too: a gzip checksum covers the whole archive and comes
    last. Both functions raise `DataError` if the archive is damaged or has no acceptable member of that name.

    Args:
        archive: the decompressed archive.
        name: name of the archive in messages.

    Returns:
        Function that returns up to the given number of bytes of the member; empty at its end.
    """

    def read(size: int) -> bytes:
        with _tar_errors(name):
            data = member.read(size)
        while not data and archive.read(_BLOCK):
            pass
        return data

    with _tar_errors(name):
        # The caller closes the underlying file. In this mode tarfile only calls `read`.
        tar = tarfile.open(fileobj=archive, mode="r|", tarinfo=_BoundedInfo)  # pyright: ignore  # noqa: SIM115
        member = _find_member(tar, name)
    return read


@contextmanager
def _tar_errors(name: str) -> Generator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise DataError(
            f"{name} is not a complete tar archive: {error}. Download it again, or pass {MEMBER} itself."
        ) from error


def _find_member(archive: tarfile.TarFile, name: str) -> Readable:
    refused: list[str] = []
    others: list[tarfile.TarInfo] = []
    for count, info in enumerate(archive, 1):
        if count > _MAX_MEMBERS:
            refused.append(f"everything after {_MAX_MEMBERS} members")
            break
        if reason := _refusal(info):
            refused.append(f"{info.name[:100]!r} ({reason})")
            logger.warning("%s: refused to read member %s", name, refused[-1])
        elif PurePosixPath(info.name).name == MEMBER and (file := archive.extractfile(info)):
            return file
        elif info.isfile():
            others.append(info)
    raise DataError(_without_member(name, others, refused))


def _without_member(name: str, others: Sequence[tarfile.TarInfo], refused: Sequence[str]) -> str:
    """Return a message that lists what the archive contains instead, and shows how to read its largest member."""
    holds = ", ".join(info.name[:100] for info in others[:_LISTED]) + " and others" * (len(others) > _LISTED)
    sentences = [f"{name} does not contain a plain file {MEMBER}; it contains {holds or 'no readable file'}."]
    if refused:
        sentences.append(f"Refused members: {', '.join(refused[:10])}.")
    if others:
        largest = quote(max(others, key=lambda info: info.size).name[:1000])
        sentences.append(
            f"Pipe in the member that has the data (tar xOf {quote(name)} {largest} | ... --data-path -)."
        )
    sentences.append(f"{'Or pass' if others else 'Pass'} {MEMBER} itself.")
    return " ".join(sentences)


def _refusal(info: tarfile.TarInfo) -> str | None:
    """Return why a member is refused; None for an ordinary file or folder."""
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts or "\\" in info.name:
        return "its path leaves the folder"
    if info.islnk() or info.issym():
        return f"a link to {info.linkname[:100]!r}"
    if not info.isfile() and not info.isdir():
        return "not a plain file"
    return None
