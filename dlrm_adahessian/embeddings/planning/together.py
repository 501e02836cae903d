# pyright: basic
"""Plan on all ranks of a job for the machines that it runs on."""

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
    """Make the same plan on every rank, for the machine of the first. A collective: all ranks call it.

    Args:
        request: tables, rule, and this rank's view of the machine.

    Returns:
        Our plan and the same plan for TorchRec, equal on all ranks. If nothing fits, raises a UsageError.

    Raises:
        RuntimeError: the plans of the ranks differ, which is a bug.
    """
    machines = request.machines
    memory, here = ranks.first_does(lambda: [machines.memory_bytes, machines.ranks_per_host])
    machines = replace(machines, memory_bytes=memory, ranks_per_host=here)
    plan, sharding_plan = plan_or_refuse(replace(request, machines=machines))
    plans = ranks.agreed(lambda: fingerprint(plan.asdict()))
    if len(set(plans)) > 1:
        raise RuntimeError(f"All ranks must make the same plan of the tables, got fingerprints {plans}.")
    return plan, sharding_plan


def these_machines(device: torch.device, memory_bytes: int | None) -> Machines:
    """Return the ranks of this job. Requires a process group.

    Args:
        device: device of the ranks.
        memory_bytes: memory per rank; None detects it.
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
    """Return the memory of the GPU, or the rank's share of the host's memory, in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return host_memory() // ranks_here
