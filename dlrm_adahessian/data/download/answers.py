"""Read HTTP responses with a deadline for the headers and a minimum speed for the body.

The timeout of the standard library applies to each read separately. A server that sends a byte now and then, or endless
headers, would block it forever.
"""

import io
import socket
import time
import urllib.request
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any

LEAST_SPEED = 10_000
"""Minimum speed of a mirror in bytes per second, at which Criteo's archive takes five days."""


class _Timely(io.RawIOBase):
    """The bytes of a connection. Raises `TimeoutError` if they arrive too late."""

    def __init__(self, raw: io.RawIOBase, patience: float) -> None:
        """Wrap `raw`. `patience` is the limit in seconds for the headers, and then for each interval of the body."""
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
                raise TimeoutError(f"the headers did not end within {self._patience:g} s")
            if self._bytes < LEAST_SPEED * waited:
                raise TimeoutError(f"the server sends fewer than {LEAST_SPEED:,} bytes per second")
            self._since, self._bytes = time.monotonic(), 0
        return count

    def headers_are_read(self) -> None:
        """Start to measure the body."""
        self._since, self._bytes, self._in_headers = time.monotonic(), 0, False

    def close(self) -> None:
        """Close the wrapped file too."""
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """An HTTP response with a deadline and a minimum speed. The timeout of the connection sets both intervals."""

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
    """Opens HTTP addresses."""

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        """Send a request, and return the response."""
        return self.do_open(_Connection, req)


class TimelyHTTPSHandler(urllib.request.HTTPSHandler):
    """Opens HTTPS addresses, with the certificates that the standard library trusts."""

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        """Send a request, and return the response."""
        return self.do_open(_SecureConnection, req)


class BodilessRedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows redirects without reading their body, which may be endless."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        """Return the next request."""
        fp.close()
        return super().redirect_request(req, fp, code, msg, headers, newurl)
