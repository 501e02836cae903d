"""Run commands of the program in processes forked from the server of worlds.py, which start in 2 s instead of 6."""

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
        """Start the process. Output goes to `log`.out and `log`.err."""
        self._files = log.with_suffix(".out"), log.with_suffix(".err")
        for file in self._files:
            file.write_bytes(b"")
        (self.process,) = worlds.start(1, _run, list(map(str, arguments)), *self._files, log=log)

    @property
    def pid(self) -> int:
        """Process id, valid until the process was waited for."""
        return self.process.pid or 0

    def alive(self) -> bool:
        """Whether the process is running."""
        return self.process.is_alive()

    def kill(self) -> None:
        """Send SIGKILL if the process is running."""
        self.process.kill()

    def wait(self, seconds: float = 120) -> int | None:
        """Return the exit code. A process that does not end in time is killed."""
        return worlds.wait([self.process], seconds)[0]

    def output(self) -> str:
        """Return the standard output so far."""
        return self._files[0].read_text()

    def printed(self) -> str:
        """Return the standard output, followed by the standard error."""
        return "".join(file.read_text() for file in self._files)


def call(*arguments: object) -> tuple[int | None, str, str]:
    """Run a command, and return its exit code, standard output, and standard error."""
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
