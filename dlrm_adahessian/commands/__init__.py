"""The commands: a module each, with its flags and what it prints.

Heavy packages are imported by the command that needs them, and a command when it is called, so that help and a wrong flag
answer at once.
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
"""Each is a module, and in it a function of the same name."""


def command(name: str) -> Callable[[Sequence[str]], int]:
    """Import a command: it takes the arguments after its name, and returns the exit code."""
    return getattr(import_module(f"{__name__}.{name}"), name)
