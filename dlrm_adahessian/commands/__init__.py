"""The commands: a module each, with its flags and what it prints.

Heavy packages are imported by the command that needs them, so that help and a wrong flag answer at once.
"""

from collections.abc import Callable, Sequence

from dlrm_adahessian.commands.compare import compare
from dlrm_adahessian.commands.completion import completion
from dlrm_adahessian.commands.doctor import doctor
from dlrm_adahessian.commands.download import download
from dlrm_adahessian.commands.evaluate import evaluate
from dlrm_adahessian.commands.export import export
from dlrm_adahessian.commands.launch import launch
from dlrm_adahessian.commands.plan import plan
from dlrm_adahessian.commands.prepare import prepare
from dlrm_adahessian.commands.schema import schema
from dlrm_adahessian.commands.train import train

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "download": download,
    "schema": schema,
    "prepare": prepare,
    "train": train,
    "launch": launch,
    "evaluate": evaluate,
    "export": export,
    "compare": compare,
    "plan": plan,
    "doctor": doctor,
    "completion": completion,
}
"""Each takes the arguments after its name, and returns the exit code."""
