"""HTTP answers that come in time: headers within a deadline, and everything at a least speed.

The standard library waits for each byte anew: a server that sends one now and then, or heads without end, keeps it for
ever.
"""

import io
import socket
import time
import urllib.request
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any

LEAST_SPEED = 10_000
"""Bytes a second that a mirror must send: at this speed Criteo's archive takes five days."""


class _Timely(io.RawIOBase):
    """The bytes of a connection; those that come too late raise `TimeoutError`."""

    def __init__(self, raw: io.RawIOBase, patience: float) -> None:
        """Read `raw`, with so many seconds for the headers, and for each piece of what follows."""
        self._raw, self._patience = raw, patience
        self._since, self._bytes, self._in_headers = time.monotonic(), 0, True

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read as `io.RawIOBase` does."""
        count = self._raw.readinto(buffer)
        self._bytes += count or 0
        waited = time.monotonic() - self._since
        if count and waited > self._patience:
            if self._in_headers:
                raise TimeoutError(f"its headers did not end within {self._patience:g} s")
            if self._bytes < LEAST_SPEED * waited:
                raise TimeoutError(f"it sends less than {LEAST_SPEED:,} bytes a second")
            self._since, self._bytes = time.monotonic(), 0
        return count

    def headers_are_read(self) -> None:
        """Go on to what follows them."""
        self._since, self._bytes, self._in_headers = time.monotonic(), 0, False

    def close(self) -> None:
        """Close the connection's file too."""
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """An answer whose bytes come in time; how long is waited is the timeout of the connection."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._timely = _Timely(self.fp.detach(), sock.gettimeout() or 0.0)
        self.fp = io.BufferedReader(self._timely)

    def begin(self) -> None:
        """Read the headers."""
        super().begin()
        self._timely.headers_are_read()


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class TimelyHTTPHandler(urllib.request.HTTPHandler):
    """Opens http."""

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        """Send a request; return the answer."""
        return self.do_open(_Connection, req)


class TimelyHTTPSHandler(urllib.request.HTTPSHandler):
    """Opens https, with the certificates that the standard library trusts."""

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        """Send a request; return the answer."""
        return self.do_open(_SecureConnection, req)


class BodilessRedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows redirects without reading what comes with them: it may have no end."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        """Return the next request."""
        fp.close()
        return super().redirect_request(req, fp, code, msg, headers, newurl)
