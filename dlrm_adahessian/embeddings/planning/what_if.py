"""Plan the tables of a model for hypothetical machines, without running on them.

The module does not import torch, because `--help` reads its settings; `planned` does.
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
    """Tables, machines, and optimizer to plan for."""

    tables: str = "kaggle"
    """Table sizes and model widths: kaggle, a name in presets/tables, or a TOML file."""
    hosts: int = Field(default=1, ge=1)
    """Number of machines."""
    gpus_per_host: int = Field(default=8, ge=1)
    """Ranks per host, also with --device cpu."""
    memory_gib: float = Field(default=80, gt=0)
    """Memory per rank (GiB): of its GPU, or its share of the host's."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Device of the ranks."""
    model: ModelName | None = None
    """Architecture, with its default layers; default: the model of --tables."""
    embedding_dim: Annotated[int, Field(ge=1)] | None = None
    """Embedding width D; default: that of the model."""
    batch_size: int = Field(default=65_536, ge=1)
    """Global batch size (samples per step, all ranks)."""
    optimizer: str = "hybrid"
    """Optimizer preset: hybrid, adagrad, adam, ... (docs/optimizers.md)."""
    sharding: Sharding = "auto"
    """Sharding of all tables; auto lets TorchRec's planner choose for each."""
    json: bool = False
    """Print one JSON document instead of text."""
    optim: OptimConfig = OptimConfig()

    @property
    def ranks(self) -> int:
        """Total number of ranks."""
        return self.hosts * self.gpus_per_host


@settings
class TableSizes:
    """Table sizes, and the model that is usually trained with them."""

    rows: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Number of rows of each table."""
    values_per_bag: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None
    """Mean number of rows that a sample looks up in each table; default: one."""
    dense: int = Field(default=0, ge=0)
    """Number of numeric features."""
    model: ModelConfig = DLRMConfig()

    @model_validator(mode="after")
    def _of_each_table(self) -> "TableSizes":
        if self.values_per_bag is not None and len(self.values_per_bag) != len(self.rows):
            raise ValueError(
                f"values_per_bag must have one number for each of the {len(self.rows)} tables, got "
                f"{len(self.values_per_bag)}. Provide as many as in rows, or remove values_per_bag."
            )
        return self

    @property
    def bag_lengths(self) -> tuple[float, ...]:
        """Mean number of values per bag, for each table."""
        return self.values_per_bag or (1.0,) * len(self.rows)


def table_sizes(name: str) -> TableSizes:
    """Return the table sizes of a preset or a file.

    Args:
        name: `kaggle`, the stem of a file in presets/tables, or the path of a similar TOML file.

    Returns:
        The sizes. For kaggle they count the distinct tokens of all samples, which exceed the vocabulary of the training
        samples.

    Raises:
        UsageError: the name is unknown, or the file is invalid.
    """
    if name == "kaggle":
        from dlrm_adahessian.data.synthetic.marginals import INTEGERS, TOKENS

        return TableSizes(rows=tuple(token.distinct for token in TOKENS), dense=len(INTEGERS))
    known = preset_names("tables")
    if name in known:
        return validated(TableSizes, read_preset("tables", name))
    if not name.endswith(".toml"):
        raise UsageError(
            f"Unknown tables: {name!r}. Choose kaggle, {', '.join(known)}, or the path of a TOML file."
        )
    return validated(TableSizes, read_toml(Path(name)))


def planned(config: PlanConfig) -> Plan:
    """Plan without a process group or a GPU.

    Args:
        config: tables, machines, and optimizer.

    Returns:
        A plan that fits. If there is none, a UsageError suggests changes that would fit.
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
    """Return the model of the tables, or the requested architecture with the same or the requested embedding width."""
    values = dataclasses.asdict(sizes.model)
    if config.model not in (None, sizes.model.name):
        values = {"name": config.model, "embedding_dim": sizes.model.embedding_dim}
    if config.embedding_dim is not None:
        values["embedding_dim"] = config.embedding_dim
    return validated(TableSizes, {**dataclasses.asdict(sizes), "model": values}).model


def plan_json(config: PlanConfig, plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values, with the request."""
    asked = {"tables": config.tables, "optimizer": config.optimizer, "sharding": config.sharding}
    return {"asked": asked, **plan.asdict()}


def _dense(model: ModelConfig, optim: OptimConfig, sizes: TableSizes) -> DenseMemory:
    """Build the dense part, which is small, to measure its memory."""
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
