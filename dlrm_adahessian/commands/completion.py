"""Implement `completion`: print a script with which a shell completes commands and flags."""

import io
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import AvoidSubcommands, subcommand

from dlrm_adahessian import config
from dlrm_adahessian.commands import compare, daily, train
from dlrm_adahessian.commands.arguments import parsed
from dlrm_adahessian.commands.calibrate import CalibrateConfig
from dlrm_adahessian.commands.doctor import DoctorConfig
from dlrm_adahessian.commands.download import DownloadConfig
from dlrm_adahessian.commands.evaluate import EvaluateConfig
from dlrm_adahessian.commands.export import ExportConfig
from dlrm_adahessian.commands.help import under_headings
from dlrm_adahessian.commands.launch import LaunchConfig
from dlrm_adahessian.commands.log import LogConfig
from dlrm_adahessian.commands.prepare import PrepareConfig
from dlrm_adahessian.commands.schema import SchemaConfig
from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.embeddings.planning.what_if import PlanConfig

PROGRAM = "dlrm-adahessian"


@dataclass(frozen=True)
class CompletionConfig:
    """Print a script with which bash or zsh completes the commands of dlrm-adahessian and their flags.

    bash:  dlrm-adahessian completion bash > ~/.local/share/bash-completion/completions/dlrm-adahessian

    zsh:   dlrm-adahessian completion zsh > DIR/_dlrm-adahessian, where DIR is one of $fpath
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """Shell to complete in."""


def completion(arguments: Sequence[str]) -> int:
    """Print a script with which bash or zsh completes commands and flags."""
    args = parsed(CompletionConfig, arguments, prog="python -m dlrm_adahessian completion")
    script = io.StringIO()
    with redirect_stdout(script), suppress(SystemExit):  # tyro exits after it has printed the script
        tyro.cli(
            _commands(),
            args=["--tyro-print-completion", args.shell],
            prog=PROGRAM,
            config=(AvoidSubcommands,),
        )
    sys.stdout.write(_one_line_descriptions(script.getvalue()))
    return 0


def _one_line_descriptions(script: str) -> str:
    """Join the lines of each help text. The shell would offer the second and later lines as flags."""
    return re.sub(
        "^COMPLETION_SPEC = .*$", lambda spec: spec[0].replace(r"\n", " "), script, flags=re.MULTILINE
    )


def _commands() -> Any:  # a union, which has no static type
    """Return a union type with the flags of all commands."""
    preset = config.load(None, None)
    training = under_headings(preset, train.LAYOUT, everything=True)
    comparing = under_headings(CompareConfig(), compare.LAYOUT, everything=True)
    by_day = under_headings(daily.below_flags([]), daily.LAYOUT, everything=True)
    kinds = [
        Annotated[DownloadConfig, subcommand("download")],
        Annotated[SchemaConfig, subcommand("schema")],
        Annotated[PrepareConfig, subcommand("prepare")],
        Annotated[type(training), subcommand("train", default=training)],
        Annotated[LaunchConfig, subcommand("launch")],
        Annotated[EvaluateConfig, subcommand("evaluate")],
        Annotated[CalibrateConfig, subcommand("calibrate")],
        Annotated[ExportConfig, subcommand("export")],
        Annotated[type(comparing), subcommand("compare", default=comparing)],
        Annotated[type(by_day), subcommand("daily", default=by_day)],
        Annotated[LogConfig, subcommand("log")],
        Annotated[
            PlanConfig, subcommand("plan", default=PlanConfig(optimizer=preset.optimizer, optim=preset.optim))
        ],
        Annotated[DoctorConfig, subcommand("doctor")],
        Annotated[CompletionConfig, subcommand("completion")],
    ]
    return Union[tuple(kinds)]  # noqa: UP007, the members are a list
