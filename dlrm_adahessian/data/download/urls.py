"""Bytes of an address from an offset on. A file or HTTP; a redirect leads to HTTP only, never to a file."""

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

# Of a server that answers so a second try may get the file: request timed out, too many requests, and its own failures.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
# No size has more digits, and `int` refuses thousands of them.
_CONTENT_LENGTH = re.compile(r"\d{1,18}")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")


class LostConnectionError(Exception):
    """The transfer broke off; another try may go on."""


class UselessMirrorError(Exception):
    """The mirror answers, and not with the file; another try would get the same."""


class _Answer(Protocol):
    """A file, or the body of an HTTP answer."""

    def read1(self, size: int, /) -> bytes:
        """Return the bytes that are here, at most `size`; none at the end."""
        ...


@dataclass(frozen=True)
class Transfer:
    """An open answer.

    Attributes:
        start: offset of its first byte, at most that which was asked for; 0 from a server that gives whole files only.
        total: size of the whole file, None where the mirror does not say.
    """

    start: int
    total: int | None
    _answer: _Answer

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`, none at the end; raises `LostConnectionError`."""
        try:
            # Not `read`, which waits for all of them, and loses what it has when the connection stalls.
            return self._answer.read1(size)
        except (OSError, HTTPException) as error:
            raise LostConnectionError(str(error) or type(error).__name__) from error


def shown(url: str) -> str:
    """Return an address without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def opened(url: str, offset: int, timeout: float) -> Generator[Transfer]:
    """Open an address, and close it when the block ends.

    Args:
        url: of the schemes http, https and file.
        offset: first byte that is wanted.
        timeout: seconds without a byte, for all headers, or below the least speed, after which a server is given up.

    Yields:
        The answer; it may begin at 0 instead.

    Raises:
        LostConnectionError: no answer, or one of a server that may answer better later.
        UselessMirrorError: the answer is not the file, or a redirect to what is no address.
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
        raise kind(f"it answers {error.code} {error.msg}") from error
    except URLError as error:
        # A text says that no such address can be opened, as after a redirect to ftp; an exception, how opening failed.
        lasting = isinstance(error.reason, str | ssl.SSLCertVerificationError)
        raise (UselessMirrorError if lasting else LostConnectionError)(str(error.reason)) from error
    except ValueError as error:  # by a redirect; addresses of the configuration are checked there
        raise UselessMirrorError(f"it leads to what cannot be opened: {error}") from error
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
        raise UselessMirrorError(f"it sends another part of the file than that from byte {offset:,} on")
    return Transfer(int(span[1]), int(span[2]) if span[2] != "*" else None, answer)


def _file(url: str) -> BufferedReader:
    path = Path(urllib.request.url2pathname(urlsplit(url).path))
    try:
        return path.open("rb")
    except OSError as error:
        raise UselessMirrorError(error.strerror or str(error)) from error


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens HTTP and nothing else: for a redirect to a file or to ftp it has no handler."""
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
