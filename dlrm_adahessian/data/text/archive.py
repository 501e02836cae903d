"""One member of a tar archive, streamed; nothing is ever extracted to disk.

An archive comes from anyone. So a member with a name that leaves the folder, a link or a device is never
read, and headers that would make tarfile read without bound into memory end the reading.
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
_MAX_MEMBERS = 1000  # tarfile remembers each; dac.tar.gz has four
_BLOCK = 1 << 20  # bytes
_LISTED = 6  # members that a message lists

logger = logging.getLogger(__name__)


class Readable(Protocol):
    """Something that gives bytes in order."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


class _BoundedInfo(tarfile.TarInfo):
    """A header that refuses to bring a large extension with it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Parse a header block.

        Args:
            buf: 512 bytes.
            encoding: of the names.
            errors: what to do with names in another encoding.

        Returns:
            The header.

        Raises:
            ReadError: it is of a kind that would be read into memory, and large or sparse.
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
            raise tarfile.ReadError(f"a header of type {info.type!r} and {info.size} bytes is refused")
        return info


def looks_like_tar(head: bytes) -> bool:
    """Tell a tar archive by the magic in its first 512 bytes."""
    return head[257:262] == b"ustar"


def member_reader(archive: Readable, name: str) -> Callable[[int], bytes]:
    """Find the training file in an archive and return the function that reads it.

    Its end is reported only after the archive has been read to its own end, since a gzip checksum, which
    covers the whole archive, stands there. Both raise `DataError` when the archive is damaged or has no
    acceptable member of that name.

    Args:
        archive: the archive, decompressed.
        name: what messages call it.

    Returns:
        Gives up to so many bytes of the member, none at its end.
    """

    def read(size: int) -> bytes:
        with _tar_errors(name):
            data = member.read(size)
        while not data and archive.read(_BLOCK):
            pass
        return data

    with _tar_errors(name):
        # Closed with the file under it; in this mode tarfile asks no more of that than `read`.
        tar = tarfile.open(fileobj=archive, mode="r|", tarinfo=_BoundedInfo)  # pyright: ignore  # noqa: SIM115
        member = _find_member(tar, name)
    return read


@contextmanager
def _tar_errors(name: str) -> Generator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise DataError(
            f"{name} must be a whole tar archive: {error}; fetch it again or give {MEMBER} itself"
        ) from error


def _find_member(archive: tarfile.TarFile, name: str) -> Readable:
    refused: list[str] = []
    others: list[tarfile.TarInfo] = []
    for count, info in enumerate(archive, 1):
        if count > _MAX_MEMBERS:
            refused.append(f"what follows {_MAX_MEMBERS} members")
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
    """Say what an archive holds in place of the training file, and how the largest of that can be read."""
    holds = ", ".join(info.name[:100] for info in others[:_LISTED]) + ", ..." * (len(others) > _LISTED)
    told = [f"{name} must hold a plain file {MEMBER} and holds {holds or 'no file that may be read'}"]
    if refused:
        told.append(f"refused: {', '.join(refused[:10])}")
    if others:
        largest = quote(max(others, key=lambda info: info.size).name[:1000])
        told.append(
            f"pipe in the member that holds the rows: tar xOf {quote(name)} {largest} | ... --data-path -"
        )
    told.append(f"{'or ' * bool(others)}give {MEMBER} itself")
    return "; ".join(told)


def _refusal(info: tarfile.TarInfo) -> str | None:
    """Return why a member is not to be trusted, None when it is an ordinary file or folder."""
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts or "\\" in info.name:
        return "its name leaves the folder"
    if info.islnk() or info.issym():
        return f"a link to {info.linkname[:100]!r}"
    if not info.isfile() and not info.isdir():
        return "not a plain file"
    return None
