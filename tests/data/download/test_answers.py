"""Servers whose responses never end: the client closes each connection in time."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from dlrm_adahessian.data.download.fetch import fetch
from dlrm_adahessian.errors import NoInputError
from tests.data.download.mirror import FILE, PATIENCE, Mirror, archive, served

SOON = replace(PATIENCE, timeout=0.5, tries=2)
DEADLINE = 8.0  # seconds; each of the two connections times out after half a second


def endless(head: bytes, piece: bytes, every: float) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return an endless response: a head and repeated pieces."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        with suppress(ConnectionError):  # after the client closes it
            request.wfile.write(head)
            end = time.monotonic() + 4 * DEADLINE
            while time.monotonic() < end:
                request.wfile.write(piece)
                time.sleep(every)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = f"Content-Length: {len(FILE)}\r\n\r\n".encode()


@pytest.mark.parametrize(("head", "piece", "every", "told"), [
    (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.0001, "the headers did not end within 0.5 s"),
    (b"HTTP/1.1 200 O", b"K", 0.05, "the headers did not end within 0.5 s"),
    (OK + b"X: ", b"x", 0.05, "the headers did not end within 0.5 s"),
    (OK + LENGTH, b"x", 0.05, "the server sends fewer than 10,000 bytes per second"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n1;x=", b"x", 0.05, "the server sends fewer than 10,000 bytes per second"),
], ids=["100 Continue", "status", "header", "body", "chunk"])  # fmt: skip
def test_a_server_that_sends_without_end_is_given_up(
    head: bytes, piece: bytes, every: float, told: str, tmp_path: Path
) -> None:
    mirror = Mirror()
    mirror.answer = endless(head, piece, every)
    with served(mirror) as url:
        began = time.monotonic()
        with pytest.raises(NoInputError, match=f"{told}, 2 times in a row"):
            fetch(archive(url), tmp_path, SOON)
        assert time.monotonic() - began < DEADLINE


def test_a_redirect_is_followed_without_the_end_of_what_comes_with_it(tmp_path: Path) -> None:
    first = Mirror()
    with served(Mirror()) as url, served(first) as begin:
        head = f"HTTP/1.1 302 Found\r\nLocation: {url}\r\n\r\n".encode()
        first.answer = endless(head, b"x" * 1000, 0.001)
        began = time.monotonic()
        assert fetch(archive(begin), tmp_path, PATIENCE).read_bytes() == FILE
        assert time.monotonic() - began < DEADLINE


def test_a_server_that_sends_a_byte_a_connection_is_given_up(tmp_path: Path) -> None:
    mirror = Mirror(cuts=[1] * 1000)
    with served(mirror) as url, pytest.raises(NoInputError, match="ended early, 3 times in a row"):
        fetch(archive(url), tmp_path, PATIENCE)
    assert len(mirror.offsets) == 3
