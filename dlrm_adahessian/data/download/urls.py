"""Read the bytes at an address, from an offset. Addresses are files or HTTP, and redirects may lead only to HTTP."""

import re
import ssl
import urllib.request
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from io import BufferedReader
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from dlrm_adahessian.data.download.answers import (
    BodilessRedirectHandler,
    TimelyHTTPHandler,
    TimelyHTTPSHandler,
)

# A retry may succeed after these statuses: request timeout, too many requests, and server errors.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
# No size has more digits, and `int` raises for thousands of them.
_CONTENT_LENGTH = re.compile(r"\d{1,18}")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")


class LostConnectionError(Exception):
    """The transfer was interrupted. A retry may continue it."""


class UselessMirrorError(Exception):
    """The mirror does not have the file. A retry would fail again."""


class _Answer(Protocol):
    """A file, or the body of an HTTP response."""

    def read1(self, size: int, /) -> bytes:
        """Return the bytes that are available, at most `size`; empty at the end."""
        ...


@dataclass(frozen=True)
class Transfer:
    """An open response.

    Attributes:
        start: offset of its first byte, at most the requested one; 0 if the server does not support ranges.
        total: size of the whole file in bytes; None if the mirror does not report it.
    """

    start: int
    total: int | None
    _answer: _Answer

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`, empty at the end. Raises `LostConnectionError`."""
        try:
            # Not `read`, which waits for all bytes and drops those it has when the connection stalls.
            return self._answer.read1(size)
        except (OSError, HTTPException) as error:
            raise LostConnectionError(str(error) or type(error).__name__) from error


def shown(url: str) -> str:
    """Return an address without the parts that may be secret: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def opened(url: str, offset: int, timeout: float) -> Generator[Transfer]:
    """Open an address, and close it at the end of the block.

    Args:
        url: address with the scheme http, https, or file.
        offset: first byte to request.
        timeout: seconds without a byte, until the end of the headers, or below the minimum speed, before an error.

    Yields:
        The response, which may begin at 0 instead of `offset`.

    Raises:
        LostConnectionError: there is no response, or a temporary error.
        UselessMirrorError: the response is not the file, or a redirect to an invalid address.
    """
    if urlsplit(url).scheme == "file":
        with closing(_file(url)) as file:
            total = file.seek(0, 2)
            yield Transfer(file.seek(min(offset, total)), total, file)
        return
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
    try:
        answer: HTTPResponse = _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        kind = LostConnectionError if error.code in _PASSING else UselessMirrorError
        raise kind(f"the server answered {error.code} {error.msg}") from error
    except URLError as error:
        # The reason is a string if the address cannot be opened, as after a redirect to ftp; otherwise it is an exception.
        lasting = isinstance(error.reason, str | ssl.SSLCertVerificationError)
        raise (UselessMirrorError if lasting else LostConnectionError)(str(error.reason)) from error
    except ValueError as error:  # from a redirect; the addresses of the configuration are validated
        raise UselessMirrorError(f"it redirects to an invalid address: {error}") from error
    except (OSError, HTTPException) as error:
        raise LostConnectionError(str(error) or type(error).__name__) from error
    with closing(answer):
        yield _transfer(answer, offset)


def _transfer(answer: HTTPResponse, offset: int) -> Transfer:
    if answer.status != 206:
        length = _CONTENT_LENGTH.fullmatch(answer.headers.get("Content-Length", ""))
        return Transfer(0, int(length[0]) if length else None, answer)
    span = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if not span or int(span[1]) > offset:
        raise UselessMirrorError(f"the server did not send the file from byte {offset:,} on")
    return Transfer(int(span[1]), int(span[2]) if span[2] != "*" else None, answer)


def _file(url: str) -> BufferedReader:
    path = Path(urllib.request.url2pathname(urlsplit(url).path))
    try:
        return path.open("rb")
    except OSError as error:
        raise UselessMirrorError(error.strerror or str(error)) from error


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for HTTP only. It has no handler for redirects to files or FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        TimelyHTTPHandler,
        TimelyHTTPSHandler,
        BodilessRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
