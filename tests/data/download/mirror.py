"""A local server that misbehaves like real mirrors."""

import hashlib
import re
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dlrm_adahessian.data.download.config import Archive
from dlrm_adahessian.data.download.fetch import Patience

FILE = bytes(range(256)) * 4096  # 1 MiB
PATIENCE = Patience(timeout=5, tries=3, pause=0.01)  # long enough for a busy machine


class Mirror:
    """Serves FILE, or another body, and records the offset and the bytes sent for each request.

    Attributes:
        cuts: number of bytes after which the first, second, ... response is cut.
        stalls: whether a cut response hangs instead of ending.
        ranges: whether the server supports ranges.
        status: status of responses without a file, with `location`; None to serve the file.
        length: whether responses have a length, or a wrong value for it; ranges report it as the size of the file.
    """

    def __init__(
        self, body=FILE, cuts=(), stalls=False, ranges=True, status=None, location=None, length=True
    ):
        self.body, self.cuts, self.stalls, self.ranges = body, list(cuts), stalls, ranges
        self.status, self.location, self.length = status, location, length
        self.offsets, self.sent = [], []
        self.released = threading.Event()

    def answer(self, request):
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        self.offsets.append(int(asked[1]) if asked else 0)
        start = self.offsets[-1] if self.ranges else 0
        if status := self.status:
            request.send_response(status)
            if self.location:
                request.send_header("Location", self.location)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        told = self.length if isinstance(self.length, str) else None
        request.send_response(206 if start else 200)
        if start:
            total = told or len(self.body)
            request.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{total}")
        if self.length:
            request.send_header("Content-Length", told or str(len(self.body) - start))
        request.end_headers()
        end = start + self.cuts.pop(0) if self.cuts else len(self.body)
        with suppress(ConnectionError):  # the client may close the connection first
            request.wfile.write(self.body[start:end])
        self.sent.append(len(self.body[start:end]))
        if self.stalls and end < len(self.body):
            request.wfile.flush()
            self.released.wait(10)


@contextmanager
def served(mirror):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            mirror.answer(self)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/dac.tar.gz"
        finally:
            mirror.released.set()
            server.shutdown()
            thread.join()


def archive(*urls, body=FILE):
    return Archive(url=urls, sha256=hashlib.sha256(body).hexdigest(), bytes=len(body))


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")
