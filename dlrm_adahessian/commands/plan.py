"""`plan`: which tables would lie on which GPUs."""

import json
from collections.abc import Sequence

from dlrm_adahessian import config
from dlrm_adahessian.commands.arguments import parsed, value_of
from dlrm_adahessian.embeddings.planning.plan import plan_text
from dlrm_adahessian.embeddings.planning.what_if import PlanConfig, plan_json, planned
from dlrm_adahessian.runtime.terminal import say

_HELP = """Plan who holds which tables on given machines, and what each rank needs in memory; needs neither.

What cannot fit is refused, with what would. The settings of the optimizer shown below are those of its preset."""


def plan(arguments: Sequence[str]) -> int:
    """Plan who would hold which tables on given machines, and whether they fit."""
    name = value_of(arguments, "--optimizer")
    preset = config.load(None, name)
    base = PlanConfig(optimizer=preset.optimizer, optim=preset.optim)
    args = parsed(base, arguments, prog="python -m dlrm_adahessian plan", description=_HELP)
    found = planned(args)
    say(json.dumps(plan_json(args, found)) if args.json else plan_text(found))
    return 0
