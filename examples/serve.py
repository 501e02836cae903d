"""Predict over HTTP from an exported folder; this needs what the folder's own loader.py needs, and nothing else.

python examples/serve.py --model EXPORT --port 8080
curl localhost:8080/predict --data '[{"I1": 5, "C1": "68fd1e64"}]'  # {"probabilities": [0.217]}
curl localhost:8080/batch --data-binary @rows.txt                   # a probability a line, for the lines of loader.py

It is an example to put behind a reverse proxy: no TLS, no users, one request a connection.
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

MAX_BYTES, MAX_ROWS = 4 << 20, 8192  # of a body
MAX_CONNECTIONS, SECONDS = 64, 10.0  # at once; from the first byte of a connection to its last


class RefusedError(Exception):
    """A request that gets a status and a sentence."""


def predicted(model: Any, body: bytes) -> bytes:
    """Return the answer to JSON: one row, or a list of rows, by the names of the columns."""
    rows = json.loads(body)
    rows = rows if isinstance(rows, list) else [rows]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a row is a JSON object by the names of the columns, and one is not")
    if len(rows) > MAX_ROWS:
        raise RefusedError(413, f"a request has at most {MAX_ROWS:,} rows, found {len(rows):,}")
    return json.dumps({"probabilities": model.predict(rows).tolist()}).encode()


def predicted_lines(model: Any, body: bytes) -> bytes:
    """Return the answer to lines as the command line of the loader takes them."""
    lines = io.BytesIO(body).readlines()
    if len(lines) > MAX_ROWS:
        raise RefusedError(413, f"a request has at most {MAX_ROWS:,} lines, found {len(lines):,}")
    return b"".join(b"%.9g\n" % p for found in model.predict_lines(lines) for p in found.tolist())


def healthy(model: Any, body: bytes) -> bytes:
    """Say that requests are answered."""
    return b'{"status": "ok"}'


ANSWERS: dict[str, Callable[[Any, bytes], bytes]] = {
    "GET /health": healthy, "POST /predict": predicted, "POST /batch": predicted_lines
}  # fmt: skip


class Service:
    """A model, and one thread that predicts: torch uses all cores for a request by itself."""

    def __init__(self, model: Any) -> None:
        self._model, self._thread, self._open = model, ThreadPoolExecutor(1), set[asyncio.Task[None]]()

    async def serve(self, host: str, port: int, stop: asyncio.Event) -> None:
        """Answer until `stop` is set, and finish what has begun by then."""
        server = await asyncio.start_server(self._connection, host, port)
        print("http://{}:{}".format(*server.sockets[0].getsockname()), flush=True)
        await stop.wait()
        server.close()
        await asyncio.sleep(0.1)  # what the system has accepted by now becomes a task
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
                        pass  # unread bytes would reset the connection, answer and all
        except (TimeoutError, OSError):
            pass  # nobody is there to be told
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
                "a request has a head of 64 KiB at most, and as many bytes as Content-Length says",
            )
        except (ValueError, RecursionError, HTTPException) as error:
            status, said = 400, str(error)
        return status, json.dumps({"error": said[:500]}).encode()


async def received(reader: asyncio.StreamReader) -> tuple[Callable[[Any, bytes], bytes], bytes]:
    """Return what answers a request, and its body."""
    head = io.BytesIO(await reader.readuntil(b"\r\n\r\n"))
    name = head.readline().decode("latin-1").rpartition(" ")[0]
    headers = parse_headers(head)
    length = headers.get("Content-Length", "0")
    if name not in ANSWERS:
        raise RefusedError(404, f"{', '.join(ANSWERS)} are answered, got {name!r}")
    if "Transfer-Encoding" in headers or not length.isdecimal():
        raise RefusedError(
            411, f"a request says how many bytes its body has in Content-Length, got {length!r}"
        )
    if int(length) > MAX_BYTES:
        raise RefusedError(413, f"a body has at most {MAX_BYTES:,} bytes, got {int(length):,}")
    return ANSWERS[name], await reader.readexactly(int(length))


async def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="exported folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; loopback by default")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0 for any")
    args = parser.parse_args()
    sys.path.insert(0, str(args.model))
    from loader import load

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Service(load(args.model)).serve(args.host, args.port, stop)


if __name__ == "__main__":
    asyncio.run(main())
