"""Serve an exported folder over HTTP. This needs only what the folder's loader.py needs.

python examples/serve.py --model EXPORT --port 8080
curl localhost:8080/predict --data '[{"I1": 5, "C1": "68fd1e64"}]'  # {"probabilities": [0.217]}
curl localhost:8080/batch --data-binary @samples.txt                # one probability per line, as loader.py

Put it behind a reverse proxy: it has no TLS and no users, and takes one request per connection.
"""

import argparse
import asyncio
import io
import json
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException, parse_headers
from pathlib import Path
from typing import Any

MAX_BYTES, MAX_ROWS = 4 << 20, 8192  # per request body
MAX_CONNECTIONS, SECONDS = 64, 10.0  # open at once; duration of one


class RefusedError(Exception):
    """A refused request, with an HTTP status and a message."""


def predicted(model: Any, body: bytes) -> bytes:
    """Answer a JSON body: one sample, or a list of samples, by column name."""
    rows = json.loads(body)
    rows = rows if isinstance(rows, list) else [rows]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("Each sample must be a JSON object with column names as keys.")
    if len(rows) > MAX_ROWS:
        raise RefusedError(413, f"Found {len(rows):,} samples. A request may have at most {MAX_ROWS:,}.")
    return json.dumps({"probabilities": model.predict(rows).tolist()}).encode()


def predicted_lines(model: Any, body: bytes) -> bytes:
    """Answer a body of lines, in the format of loader.py's command line."""
    lines = io.BytesIO(body).readlines()
    if len(lines) > MAX_ROWS:
        raise RefusedError(413, f"Found {len(lines):,} lines. A request may have at most {MAX_ROWS:,}.")
    return b"".join(b"%.9g\n" % p for found in model.predict_lines(lines) for p in found.tolist())


def healthy(model: Any, body: bytes) -> bytes:
    """Report that the service is running."""
    return b'{"status": "ok"}'


ANSWERS: dict[str, Callable[[Any, bytes], bytes]] = {
    "GET /health": healthy, "POST /predict": predicted, "POST /batch": predicted_lines
}  # fmt: skip


class Service:
    """A model, and one thread that predicts. torch uses all cores for one request."""

    def __init__(self, model: Any) -> None:
        self._model, self._thread, self._open = model, ThreadPoolExecutor(1), set[asyncio.Task[None]]()

    async def serve(self, host: str, port: int, stop: asyncio.Event) -> None:
        """Answer requests until `stop` is set, then finish the open ones."""
        server = await asyncio.start_server(self._connection, host, port)
        print("http://{}:{}".format(*server.sockets[0].getsockname()), flush=True)
        await stop.wait()
        server.close()
        await asyncio.sleep(0.1)  # connections that the system has accepted become tasks
        while self._open:
            await asyncio.wait(self._open)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        try:
            self._open.add(task)
            if len(self._open) <= MAX_CONNECTIONS:
                async with asyncio.timeout(SECONDS):
                    status, body = await self._answer(reader)
                    head = f"HTTP/1.1 {status} \r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                    writer.write(head.encode() + body)
                    writer.write_eof()
                    while await reader.read(1 << 16):
                        pass  # unread bytes would reset the connection and lose the answer
        except (TimeoutError, OSError):
            pass  # the client is gone
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
            self._open.discard(task)

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        try:
            answer, body = await received(reader)
            loop = asyncio.get_running_loop()
            return 200, await loop.run_in_executor(self._thread, answer, self._model, body)
        except RefusedError as error:
            status, said = error.args
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            status, said = (
                400,
                "Incomplete request. Send a head of at most 64 KiB, and as many bytes as Content-Length.",
            )
        except (ValueError, RecursionError, HTTPException) as error:
            status, said = 400, str(error)
        return status, json.dumps({"error": said[:500]}).encode()


async def received(reader: asyncio.StreamReader) -> tuple[Callable[[Any, bytes], bytes], bytes]:
    """Return the handler of a request, and its body."""
    head = io.BytesIO(await reader.readuntil(b"\r\n\r\n"))
    name = head.readline().decode("latin-1").rpartition(" ")[0]
    headers = parse_headers(head)
    length = headers.get("Content-Length", "0")
    if name not in ANSWERS:
        raise RefusedError(404, f"Unknown request {name!r}. Use {', '.join(ANSWERS)}.")
    if "Transfer-Encoding" in headers or not length.isdecimal():
        raise RefusedError(411, f"Content-Length must be the number of bytes in the body, got {length!r}.")
    if int(length) > MAX_BYTES:
        raise RefusedError(413, f"The body has {int(length):,} bytes. At most {MAX_BYTES:,} are allowed.")
    return ANSWERS[name], await reader.readexactly(int(length))


async def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="exported folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0 chooses a free one")
    args = parser.parse_args()
    sys.path.insert(0, str(args.model))
    from loader import load

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Service(load(args.model)).serve(args.host, args.port, stop)


if __name__ == "__main__":
    asyncio.run(main())
