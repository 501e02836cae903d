"""Define the commands: one module each, with its flags and its output.

A command is imported when it is called, and imports heavy packages only when it needs them. Help and flag errors are
therefore immediate.
"""

from collections.abc import Callable, Sequence
from importlib import import_module

NAMES = (
    "download",
    "schema",
    "prepare",
    "train",
    "launch",
    "evaluate",
    "calibrate",
    "export",
    "compare",
    "daily",
    "log",
    "plan",
    "doctor",
    "completion",
)
"""Names of the commands. Each names a module and a function in it."""


def command(name: str) -> Callable[[Sequence[str]], int]:
    """Import a command. It takes the arguments after its name, and returns the exit code."""
    return getattr(import_module(f"{__name__}.{name}"), name)
