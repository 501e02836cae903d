"""The HTTP service in the examples: predictions, invalid requests, and constant memory."""

import asyncio
import errno
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.synthetic.generator import write_tsv
from dlrm_adahessian.serving import loader

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "serve.py"
ROW = {"I1": 5, "I3": -2, "C1": "68fd1e64", "C26": None}


def post(path: str, body: bytes, *, length: object = None) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    return head.encode() + body


def answered(port: int, request: bytes) -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.fixture(scope="module")
def model(exact):
    return loader.load(exact)


@pytest.fixture
def example():
    """Import the example as a module for this test only."""
    spec = importlib.util.spec_from_file_location("serve", EXAMPLE)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def service(example, model, capfd):
    """Run the service in a thread of this process."""
    served, stop, loops = example.Service(model), asyncio.Event(), []

    async def serving():
        loops.append(asyncio.get_running_loop())
        await served.serve("127.0.0.1", 0, stop)

    thread = threading.Thread(target=lambda: asyncio.run(serving()))
    thread.start()
    while not (line := capfd.readouterr().out):
        time.sleep(0.01)
    yield SimpleNamespace(
        port=int(line.rpartition(":")[2]),
        open=served._open,
        stop=lambda: loops[0].call_soon_threadsafe(stop.set),
    )
    if not stop.is_set():
        loops[0].call_soon_threadsafe(stop.set)
    thread.join(20)
    assert not thread.is_alive()


def test_rows_and_lines_get_what_the_loader_predicts(service, model, tmp_path):
    write_tsv(SyntheticConfig(), 300, tmp_path / "rows.txt")
    lines = (tmp_path / "rows.txt").read_bytes()
    status, body = answered(service.port, post("/batch", lines))
    (expected,) = model.predict_lines(lines.splitlines())
    assert status == 200
    assert [np.float32(line) for line in body.split()] == expected.tolist()
    for rows in ([ROW], [ROW, {}, {"I2": 7}], []):
        status, body = answered(service.port, post("/predict", json.dumps(rows).encode()))
        assert (status, json.loads(body)) == (200, {"probabilities": model.predict(rows).tolist()})
    _, alone = answered(service.port, post("/predict", json.dumps(ROW).encode()))
    assert json.loads(alone) == {"probabilities": model.predict([ROW]).tolist()}
    assert answered(service.port, b"GET /health HTTP/1.0\r\n\r\n") == (200, b'{"status": "ok"}')


LINE = b"\t".join([b"7"] * 13 + [b"0000000a"] * 26)
MALFORMED: dict[str, Callable[[random.Random], bytes]] = {
    "bytes": lambda draw: draw.randbytes(draw.randrange(1, 3000)),
    "a head of bytes": lambda draw: draw.randbytes(draw.randrange(3000)) + b"\r\n\r\n",
    "a head that never ends": lambda draw: b"POST /predict HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
    "many headers": lambda draw: b"POST /predict HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "another path": lambda draw: post(f"/{draw.randbytes(9).hex()}", b"[]"),
    "another length": lambda draw: post("/predict", b"[]", length=draw.choice(["-1", "1e3", "+2", "", "²", "9" * 5000])),
    "a body cut off": lambda draw: post("/predict", b"[]", length=draw.randrange(3, 1 << 22)),
    "a body too long": lambda draw: post("/predict", b"[" * 100_000, length=draw.randrange((1 << 22) + 1, 1 << 62)),
    "no JSON": lambda draw: post("/predict", json.dumps([ROW]).encode()[: draw.randrange(30)]),
    "no text": lambda draw: post("/predict", b'"\xff' + draw.randbytes(20)),
    "nested": lambda draw: post("/predict", 100_000 * draw.choice([b"[", b'{"I1":'])),
    "no rows": lambda draw: post("/predict", draw.choice([b"3", b"null", b'"I1"', b"[[]]", b"[{}, 3]"])),
    "no value": lambda draw: post(
        "/predict",
        b'{"%s": %s}'
        % draw.choice([
            (b"I1", b'"x"'), (b"I1", b"NaN"), (b"I1", b"1e999"), (b"I1", b"[1]"), (b"I1", b"9" * 30),
            (b"I1", b"9" * 9999), (b"C1", b"7"), (b"C1", b'"68fd1e6"'), (b"C1", b'"\\ud800\\ud800aaaaaa"'),
            (b"C1", b'["a", "b", "c", "d", "e", "f", "1", "2"]'),
        ]),
    ),
    "rows too many": lambda draw: post("/predict", b"[" + b"{}," * 9000 + b"{}]"),
    "lines too many": lambda draw: post("/batch", (LINE + b"\n") * 9000),
    "no lines": lambda draw: post("/batch", LINE + b"\n" + draw.randbytes(draw.randrange(1, 500)) + b"\t\n" + LINE),
}  # fmt: skip


def refused(port: int, name: str, draw: random.Random) -> None:
    """Send a malformed request, and check that the answer is an error in one sentence."""
    status, body = answered(port, MALFORMED[name](draw))
    assert 400 <= status < 500, (name, body)
    (said,) = json.loads(body).values()
    assert 10 < len(said) <= 500, (name, said)
    assert "Traceback" not in said


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_200_malformed_requests_are_refused_and_leave_nothing_behind(service):
    draw = random.Random(0)
    refused(service.port, "nested", draw)
    files, threads = open_files(), threading.active_count()
    for n in range(200):
        refused(service.port, list(MALFORMED)[n % len(MALFORMED)], draw)
    late = time.monotonic() + 10
    while service.open or open_files() > files:
        assert time.monotonic() < late
        time.sleep(0.01)
    assert threading.active_count() == threads
    assert answered(service.port, post("/predict", b"{}"))[0] == 200


def test_who_sends_slowly_is_cut_off_and_others_are_answered(service, example, monkeypatch):
    monkeypatch.setattr(example, "SECONDS", 0.5)
    request, began = post("/predict", b"{}"), time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", service.port)) as slow,
        pytest.raises(OSError, match="reset|Broken pipe"),
    ):
        for _ in range(100):
            slow.send(b"X")
            assert answered(service.port, request)[0] == 200
            time.sleep(0.05)
    assert 0.4 < time.monotonic() - began < 5


def test_more_connections_than_the_limit_are_closed(service, example, monkeypatch):
    monkeypatch.setattr(example, "MAX_CONNECTIONS", 2)
    open_ones = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(2)]
    with pytest.raises((OSError, IndexError)):
        answered(service.port, post("/predict", b"{}"))
    for each in open_ones:
        each.sendall(post("/predict", b"{}"))
        assert each.recv(100).startswith(b"HTTP/1.1 200")
        each.close()


def test_what_has_begun_is_answered_after_a_stop(service, model, monkeypatch):
    reached, going_on = threading.Event(), threading.Event()

    def waiting(rows):
        reached.set()
        going_on.wait(10)
        return loader.Model.predict(model, rows)

    monkeypatch.setattr(model, "predict", waiting)
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(post("/predict", b"{}"))
        assert reached.wait(10)
        service.stop()
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port))
        going_on.set()
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_the_command_listens_on_loopback_and_ends_on_sigterm(example, exact, model, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, "--model", str(exact), "--port", "0"])
    monkeypatch.setattr(sys, "path", sys.path[:])  # the example adds the folder to import its loader
    monkeypatch.setitem(sys.modules, "loader", loader)
    found = []

    def ask_and_stop():
        while not (line := capfd.readouterr().out):
            time.sleep(0.01)
        port = int(line.rpartition(":")[2])
        found.append(answered(port, post("/predict", json.dumps(ROW).encode())))
        with socket.socket() as other:
            found.append(other.connect_ex(("127.0.0.2", port)))
        os.kill(os.getpid(), signal.SIGTERM)

    client = threading.Thread(target=ask_and_stop)
    client.start()
    asyncio.run(example.main())
    client.join(20)
    (status, body), elsewhere = found
    assert (status, json.loads(body)) == (200, {"probabilities": model.predict([ROW]).tolist()})
    assert elsewhere == errno.ECONNREFUSED


@pytest.mark.campaign
def test_10_000_malformed_requests_end_nothing_and_take_no_memory(exact, tmp_path):
    command = [sys.executable, str(EXAMPLE), "--model", str(exact), "--port", "0"]
    draw, sizes = random.Random(1), []
    with (
        (tmp_path / "errors").open("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        port = int(process.stdout.readline().rpartition(":")[2])
        for n in range(10_000):
            refused(port, list(MALFORMED)[n % len(MALFORMED)], draw)
            if n % 1000 == 999:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                sizes.append(pages * os.sysconf("SC_PAGE_SIZE") >> 20)
        status, body = answered(port, post("/predict", json.dumps(ROW).encode()))
        process.terminate()
        assert process.wait(30) == 0
    assert (status, json.loads(body)) == (200, {"probabilities": loader.load(exact).predict([ROW]).tolist()})
    assert (tmp_path / "errors").read_text() == ""
    print("MiB resident after each 1,000 requests:", sizes)
    assert sizes[-1] - sizes[0] < 4  # by the first size, each kind was sent 60 times
