"""Commands of the program, each a process that is forked from the server of worlds.py: it starts in 2 s instead of 6."""

import os
import signal
import sys
import tempfile
from pathlib import Path

from dlrm_adahessian import cli
from tests.processes import worlds


class Command:
    """A process that runs one command."""

    def __init__(self, *arguments: object, log: Path) -> None:
        """Start it; it prints to `log`.out and `log`.err."""
        self._files = log.with_suffix(".out"), log.with_suffix(".err")
        for file in self._files:
            file.write_bytes(b"")
        (self.process,) = worlds.start(1, _run, list(map(str, arguments)), *self._files, log=log)

    @property
    def pid(self) -> int:
        """Of the process; it has one as long as it was not waited for."""
        return self.process.pid or 0

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.is_alive()

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.process.kill()

    def wait(self, seconds: float = 120) -> int | None:
        """Return its exit code; one that does not end in time is killed."""
        return worlds.wait([self.process], seconds)[0]

    def output(self) -> str:
        """Return what it wrote to standard output so far."""
        return self._files[0].read_text()

    def printed(self) -> str:
        """Return what it wrote to standard output, then what it wrote to standard error."""
        return "".join(file.read_text() for file in self._files)


def call(*arguments: object) -> tuple[int | None, str, str]:
    """Run a command to its end; return its exit code, standard output and standard error."""
    with tempfile.TemporaryDirectory() as folder:
        command = Command(*arguments, log=Path(folder) / "command")
        code = command.wait(300)
        output = command.output()
        return code, output, command.printed().removeprefix(output)


def _run(arguments: list[str], output: Path, error: Path) -> int:
    worlds.leave_launcher()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in ((1, output), (2, error)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    code = cli.main(arguments)
    sys.stdout.flush()
    return code
