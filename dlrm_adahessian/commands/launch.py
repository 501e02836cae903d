"""Implement `launch`: run `train` or `daily` on several ranks of this machine."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from dlrm_adahessian.commands.arguments import HELP, parsed, value_of, without
from dlrm_adahessian.commands.daily import daily
from dlrm_adahessian.commands.train import train
from dlrm_adahessian.runtime.local_ranks import become_ranks
from dlrm_adahessian.runtime.settings import settings


@settings
class LaunchConfig:
    """Train on several ranks of this machine. They communicate over the loopback interface only.

    All other flags are passed to `train`, or to `daily` if it comes before them: launch daily --ranks 2 ...
    """

    ranks: Annotated[int, Field(ge=1, le=256)]
    """Number of processes; each has its shards, its part of each batch, and its own GPU, if any."""


def launch(arguments: Sequence[str]) -> int:
    """Train on several ranks of this machine."""
    ranks = value_of(arguments, "--ranks")
    own = [*([] if ranks is None else ["--ranks", ranks]), *(flag for flag in arguments if flag in HELP)]
    args = parsed(LaunchConfig, own, prog="python -m dlrm_adahessian launch")
    rest = without(arguments, "--ranks")
    code = become_ranks(args.ranks)
    if code is not None:
        return code
    return daily(rest[1:]) if rest[:1] == ["daily"] else train(rest)
