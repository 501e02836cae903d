# pyright: basic
"""Plan on all ranks of a job, for the machine that it runs on."""

import os
from dataclasses import replace

import torch
import torch.distributed as dist
from torchrec.distributed.types import ShardingPlan

from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.embeddings.planning.plan import Machines, Plan
from dlrm_adahessian.embeddings.planning.planner import PlanRequest
from dlrm_adahessian.embeddings.planning.remedies import plan_or_refuse
from dlrm_adahessian.runs.sealed import fingerprint
from dlrm_adahessian.runtime.process import host_memory


def plan_together(request: PlanRequest) -> tuple[Plan, ShardingPlan]:
    """Plan on each rank for the machine of the first; needs a process group, and all ranks call it.

    Args:
        request: tables and rule, and the machine as this rank knows it.

    Returns:
        The plan, as ours and as TorchRec's, the same on all ranks; what does not fit is refused with a UsageError.

    Raises:
        RuntimeError: the ranks' plans differ, which is a defect.
    """
    machines = request.machines
    memory, here = ranks.first_does(lambda: [machines.memory_bytes, machines.ranks_per_host])
    machines = replace(machines, memory_bytes=memory, ranks_per_host=here)
    plan, sharding_plan = plan_or_refuse(replace(request, machines=machines))
    plans = ranks.agreed(lambda: fingerprint(plan.asdict()))
    if len(set(plans)) > 1:
        raise RuntimeError(f"all ranks must have the same plan of the tables, got {plans}")
    return plan, sharding_plan


def these_machines(device: torch.device, memory_bytes: int | None) -> Machines:
    """Return the ranks of this job; needs a process group.

    Args:
        device: that they compute on.
        memory_bytes: of a rank; None finds it out.
    """
    world_size = dist.get_world_size()
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return Machines(
        ranks=world_size,
        ranks_per_host=ranks_here,
        memory_bytes=memory_bytes or _memory(device, ranks_here),
        device=device.type,
    )


def _memory(device: torch.device, ranks_here: int) -> int:
    """Return the bytes of the GPU, or of the rank's share of the host."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return host_memory() // ranks_here
