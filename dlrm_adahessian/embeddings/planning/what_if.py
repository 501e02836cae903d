"""What if the tables lay on other machines: what each rank would hold and need, or why it cannot be.

The module imports no torch, since the command line reads its settings for `--help`; `planned` does.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dlrm_adahessian.embeddings.config import Sharding, TableSpec
from dlrm_adahessian.embeddings.planning.plan import Machines, Plan
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.model.config import DenseMemory, DLRMConfig, ModelConfig, dense_memory
from dlrm_adahessian.model.registry import ModelName
from dlrm_adahessian.optim.config import OptimConfig
from dlrm_adahessian.presets import preset_names, read_preset
from dlrm_adahessian.runtime.settings import read_toml, settings, validated


@settings
class PlanConfig:
    """Tables, machines and an optimizer."""

    tables: str = "kaggle"
    """kaggle, a name in presets/tables, or a TOML file like those: rows of each table, and the model's widths."""
    hosts: int = Field(default=1, ge=1)
    """Machines."""
    gpus_per_host: int = Field(default=8, ge=1)
    """Ranks per host; on CPUs too."""
    memory_gib: float = Field(default=80, gt=0)
    """Memory of a rank: of a GPU, or of its share of a host's."""
    device: Literal["cuda", "cpu"] = "cuda"
    """What the ranks compute on."""
    model: ModelName | None = None
    """Architecture, with its default layers; default: the tables' model."""
    embedding_dim: Annotated[int, Field(ge=1)] | None = None
    """D, width of the tables; default: that of the tables' model."""
    batch_size: int = Field(default=65_536, ge=1)
    """Samples a step, over all ranks."""
    optimizer: str = "hybrid"
    """The name of a file in presets/optimizers."""
    sharding: Sharding = "auto"
    """Of all tables; auto leaves each to TorchRec's planner."""
    json: bool = False
    """Print one JSON document instead of text."""
    optim: OptimConfig = OptimConfig()

    @property
    def ranks(self) -> int:
        """In all."""
        return self.hosts * self.gpus_per_host


@settings
class TableSizes:
    """Tables, and the model that is usual with them."""

    rows: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Of each table."""
    values_per_bag: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None
    """Rows of each table that a sample looks up, on average; default: one each."""
    dense: int = Field(default=0, ge=0)
    """Dense columns."""
    model: ModelConfig = DLRMConfig()

    @model_validator(mode="after")
    def _of_each_table(self) -> "TableSizes":
        if self.values_per_bag is not None and len(self.values_per_bag) != len(self.rows):
            raise ValueError(
                f"values_per_bag has a number for each of the {len(self.rows)} tables, got {len(self.values_per_bag)}; "
                "give as many as rows, or leave it out"
            )
        return self

    @property
    def bag_lengths(self) -> tuple[float, ...]:
        """Values per bag of each table."""
        return self.values_per_bag or (1.0,) * len(self.rows)


def table_sizes(name: str) -> TableSizes:
    """Return the sizes that a name or a file stands for.

    Args:
        name: `kaggle`, the stem of a file in presets/tables, or the path of such a file.

    Returns:
        The sizes; kaggle's are the distinct tokens of all rows, more than a vocabulary of the training rows has.

    Raises:
        UsageError: there is no such name, or the file breaks a rule.
    """
    if name == "kaggle":
        from dlrm_adahessian.data.synthetic.marginals import INTEGERS, TOKENS

        return TableSizes(rows=tuple(token.distinct for token in TOKENS), dense=len(INTEGERS))
    known = preset_names("tables")
    if name in known:
        return validated(TableSizes, read_preset("tables", name))
    if not name.endswith(".toml"):
        raise UsageError(
            f"tables are kaggle, {', '.join(known)} or a TOML file, got {name!r}; name one of these"
        )
    return validated(TableSizes, read_toml(Path(name)))


def planned(config: PlanConfig) -> Plan:
    """Plan without a process group or a GPU.

    Args:
        config: tables, machines and optimizer.

    Returns:
        A plan that fits; one that cannot be is refused with a UsageError that says what would fit.
    """
    from dlrm_adahessian.embeddings.planning.planner import PlanRequest
    from dlrm_adahessian.embeddings.planning.remedies import plan_or_refuse

    sizes = table_sizes(config.tables)
    model = _model(config, sizes)
    request = PlanRequest(
        tables=[
            TableSpec(
                name=f"C{place}",
                num_rows=rows,
                dim=model.embedding_dim,
                sharding=config.sharding,
                values_per_bag=values,
            )
            for place, (rows, values) in enumerate(zip(sizes.rows, sizes.bag_lengths, strict=True), 1)
        ],
        rule=config.optim.rows.build(),
        machines=Machines(
            ranks=config.ranks,
            ranks_per_host=config.gpus_per_host,
            memory_bytes=int(config.memory_gib * 2**30),
            device=config.device,
        ),
        batch_size=config.batch_size,
        dense=_dense(model, config.optim, sizes),
    )
    return plan_or_refuse(request)[0]


def _model(config: PlanConfig, sizes: TableSizes) -> ModelConfig:
    """Return the tables' model, or another architecture as wide, of the width that was asked for."""
    values = dataclasses.asdict(sizes.model)
    if config.model not in (None, sizes.model.name):
        values = {"name": config.model, "embedding_dim": sizes.model.embedding_dim}
    if config.embedding_dim is not None:
        values["embedding_dim"] = config.embedding_dim
    return validated(TableSizes, {**dataclasses.asdict(sizes), "model": values}).model


def plan_json(config: PlanConfig, plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values, with what it was asked for."""
    asked = {"tables": config.tables, "optimizer": config.optimizer, "sharding": config.sharding}
    return {"asked": asked, **plan.asdict()}


def _dense(model: ModelConfig, optim: OptimConfig, sizes: TableSizes) -> DenseMemory:
    """Build the dense part, which is small, and ask it."""
    import torch

    from dlrm_adahessian.model.dlrm import flatten_parameters_
    from dlrm_adahessian.model.registry import new_head

    num_dense, num_features = sizes.dense, len(sizes.rows)
    head = new_head(
        model,
        num_dense=num_dense,
        num_features=num_features,
        generator=torch.Generator(),
        dtype=torch.float32,
    )
    parameters = flatten_parameters_(head)
    optimizer = optim.dense.build(parameters, [p.shape for p in head.parameters()])
    columns = optim.columns.build(parameters, num_features, model.embedding_dim)
    return dense_memory(
        model,
        parameter_bytes=parameters.nbytes,
        state_bytes=optimizer.num_bytes(parameters) + (0 if columns is None else columns.num_bytes()),
        num_dense=num_dense,
        num_features=num_features,
    )
