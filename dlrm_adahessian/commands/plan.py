"""Implement `plan`: preview table placement and memory on machines that need not exist yet."""

import json
from collections.abc import Sequence

from dlrm_adahessian import config
from dlrm_adahessian.commands.arguments import parsed, value_of
from dlrm_adahessian.embeddings.planning.plan import plan_text
from dlrm_adahessian.embeddings.planning.what_if import PlanConfig, plan_json, planned
from dlrm_adahessian.runtime.terminal import say

_HELP = """Preview table placement and memory per rank on given machines. Neither the machines nor the data are needed.

If the tables do not fit, the error suggests settings that do. The defaults below include the optimizer preset."""


def plan(arguments: Sequence[str]) -> int:
    """Preview table placement, and check memory, on given machines."""
    name = value_of(arguments, "--optimizer")
    preset = config.load(None, name)
    base = PlanConfig(optimizer=preset.optimizer, optim=preset.optim)
    args = parsed(base, arguments, prog="python -m dlrm_adahessian plan", description=_HELP)
    found = planned(args)
    say(json.dumps(plan_json(args, found)) if args.json else plan_text(found))
    return 0
