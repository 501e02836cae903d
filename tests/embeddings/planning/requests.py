"""Build plan requests, and plan them or catch the refusal."""

import dataclasses

import pytest

from dlrm_adahessian.embeddings.config import TableSpec
from dlrm_adahessian.embeddings.planning.plan import Machines, Plan
from dlrm_adahessian.embeddings.planning.planner import PlanRequest
from dlrm_adahessian.embeddings.planning.remedies import plan_or_refuse
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.model.config import DenseMemory
from dlrm_adahessian.optim.base import RowRule
from dlrm_adahessian.optim.rows import HessianAdagradConfig, RowAdagradConfig

ENTRYWISE = RowAdagradConfig().build()
ROWWISE = HessianAdagradConfig(rowwise=True).build()
MIB = 2**20


def request(
    *rows: int,
    rule: RowRule = ENTRYWISE,
    ranks: int = 4,
    memory: int = 2**40,
    sharding: str = "auto",
    dim: int = 16,
    batch: int = 64,
    device: str = "cuda",
    dense: int = 0,
) -> PlanRequest:
    return PlanRequest(
        tables=[
            TableSpec(name=f"C{place}", num_rows=n, dim=dim, sharding=sharding)  # pyright: ignore
            for place, n in enumerate(rows, 1)
        ],
        rule=rule,
        machines=Machines(ranks=ranks, ranks_per_host=min(ranks, 8), memory_bytes=memory, device=device),
        batch_size=batch,
        dense=DenseMemory(kept=dense),
    )


def planned(asked: PlanRequest) -> Plan:
    return plan_or_refuse(asked)[0]


def other(asked: PlanRequest, **changes: object) -> PlanRequest:
    machines = {k: v for k, v in changes.items() if k in ("ranks", "memory_bytes")}
    rest = {k: v for k, v in changes.items() if k in ("batch_size", "rule")}
    tables = {k: v for k, v in changes.items() if k in ("dim", "sharding")}
    return dataclasses.replace(
        asked,
        machines=dataclasses.replace(asked.machines, **machines),  # pyright: ignore
        tables=[dataclasses.replace(t, **tables) for t in asked.tables],  # pyright: ignore
        **rest,  # pyright: ignore
    )


def refusal(asked: PlanRequest) -> str:
    with pytest.raises(UsageError, match="No plan for .* fits into memory") as refused:
        plan_or_refuse(asked)
    return str(refused.value)
