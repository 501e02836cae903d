"""Plan tables for given machines: what each rank would hold and need, or why it cannot be."""

import dataclasses
from typing import Any

import torch

from dlrm_adahessian.data.schema import NUM_INTEGERS
from dlrm_adahessian.embeddings.planning.config import PlanConfig
from dlrm_adahessian.embeddings.planning.dense_memory import DenseMemory, dense_memory
from dlrm_adahessian.embeddings.planning.plan import Machines, Plan
from dlrm_adahessian.embeddings.planning.planner import Request
from dlrm_adahessian.embeddings.planning.remedies import plan_or_refuse
from dlrm_adahessian.embeddings.planning.table_sizes import table_sizes
from dlrm_adahessian.embeddings.table_spec import TableSpec
from dlrm_adahessian.model.config import ModelConfig
from dlrm_adahessian.model.dlrm import Head, flatten_parameters_
from dlrm_adahessian.optim.dense import DenseConfig


def planned(config: PlanConfig) -> Plan:
    """Plan without a process group or a GPU.

    Args:
        config: tables, machines and optimizer.

    Returns:
        A plan that fits; one that cannot be is refused with a UsageError that says what would fit.
    """
    sizes = table_sizes(config.tables)
    model = sizes.model
    if config.embedding_dim is not None:
        model = dataclasses.replace(model, embedding_dim=config.embedding_dim)
    request = Request(
        tables=[
            TableSpec(name=f"C{place}", num_rows=rows, dim=model.embedding_dim, sharding=config.sharding)
            for place, rows in enumerate(sizes.rows, 1)
        ],
        rule=config.optim.rows.build(),
        machines=Machines(
            ranks=config.ranks,
            ranks_per_host=config.gpus_per_host,
            memory_bytes=int(config.memory_gib * 2**30),
            device=config.device,
        ),
        batch_size=config.batch_size,
        dense=_dense(model, config.optim.dense, len(sizes.rows)),
    )
    return plan_or_refuse(request)[0]


def plan_json(config: PlanConfig, plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values, with what it was asked for."""
    asked = {"tables": config.tables, "optimizer": config.optimizer, "sharding": config.sharding}
    return {"asked": asked, **plan.asdict()}


def _dense(model: ModelConfig, optim: DenseConfig, num_features: int) -> DenseMemory:
    """Build the dense part, which is small, and ask it."""
    head = Head(model, num_dense=NUM_INTEGERS, num_features=num_features, generator=torch.Generator())
    parameters = flatten_parameters_(head)
    optimizer = optim.build(parameters, [p.shape for p in head.parameters()])
    return dense_memory(
        model,
        parameters=parameters,
        state=optimizer.state.values(),
        num_dense=NUM_INTEGERS,
        num_features=num_features,
    )
