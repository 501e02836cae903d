"""`completion`: a script with which a shell completes commands and flags."""

import io
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, Union

import tyro
from tyro.conf import AvoidSubcommands, arg, subcommand

from dlrm_adahessian import config
from dlrm_adahessian.commands.calibrate import CalibrateConfig
from dlrm_adahessian.commands.download import DownloadConfig
from dlrm_adahessian.commands.evaluate import EvaluateConfig
from dlrm_adahessian.commands.export import ExportConfig
from dlrm_adahessian.commands.launch import LaunchConfig
from dlrm_adahessian.commands.prepare import PrepareConfig
from dlrm_adahessian.commands.schema import SchemaConfig
from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.embeddings.planning.what_if import PlanConfig
from dlrm_adahessian.model.registry import ModelName

T = TypeVar("T")
PROGRAM = "dlrm-adahessian"


@dataclass(frozen=True)
class CompletionConfig:
    """Print a script with which bash or zsh completes the commands of dlrm-adahessian and their flags.

    bash:  dlrm-adahessian completion bash > ~/.local/share/bash-completion/completions/dlrm-adahessian
    zsh:   dlrm-adahessian completion zsh > DIR/_dlrm-adahessian, where DIR is one of $fpath
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """Which shell."""


@dataclass(frozen=True)
class _WithFile(Generic[T]):
    """Flags that win over a file and an architecture, which are read before them (commands/arguments.py)."""

    settings: Annotated[T, arg(name="")]
    config: Path | None = None
    """TOML file of settings; flags win over it."""
    model: ModelName | None = None
    """Architecture; its settings are flags too."""


@dataclass(frozen=True)
class _Train(_WithFile[config.RunConfig]):
    """And the short names of the learning rates."""

    lr: float | None = None
    """Learning rate of the MLPs."""
    rows_lr: float | None = None
    """Learning rate of the embedding rows."""


@dataclass(frozen=True)
class _NoFlags:
    """None."""


def completion(arguments: Sequence[str]) -> int:
    """Print a script with which bash or zsh completes commands and flags."""
    args = tyro.cli(CompletionConfig, args=arguments, prog="python -m dlrm_adahessian completion")
    script = io.StringIO()
    with redirect_stdout(script), suppress(SystemExit):  # with which the library ends when it has printed
        tyro.cli(
            _commands(),
            args=["--tyro-print-completion", args.shell],
            prog=PROGRAM,
            config=(AvoidSubcommands,),
        )
    sys.stdout.write(_one_line_descriptions(script.getvalue()))
    return 0


def _one_line_descriptions(script: str) -> str:
    """Join the lines of each flag's description; the shell would offer each further line as a flag."""
    return re.sub(
        "^COMPLETION_SPEC = .*$", lambda spec: spec[0].replace(r"\n", " "), script, flags=re.MULTILINE
    )


def _commands() -> Any:  # a union, for which there is no type
    """Return a type whose flags are those of all commands."""
    preset = config.load(None, None)
    kinds = [
        Annotated[DownloadConfig, subcommand("download")],
        Annotated[SchemaConfig, subcommand("schema")],
        Annotated[PrepareConfig, subcommand("prepare")],
        Annotated[_Train, subcommand("train", default=_Train(preset))],
        Annotated[LaunchConfig, subcommand("launch")],
        Annotated[EvaluateConfig, subcommand("evaluate")],
        Annotated[CalibrateConfig, subcommand("calibrate")],
        Annotated[ExportConfig, subcommand("export")],
        Annotated[_WithFile[CompareConfig], subcommand("compare", default=_WithFile(CompareConfig()))],
        Annotated[
            PlanConfig, subcommand("plan", default=PlanConfig(optimizer=preset.optimizer, optim=preset.optim))
        ],
        Annotated[_NoFlags, subcommand("doctor")],
        Annotated[CompletionConfig, subcommand("completion")],
    ]
    return Union[tuple(kinds)]  # noqa: UP007, the members are a list
