# pyright: basic
"""The interface between a training step and the embedding tables, and its implementation for models without tables."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.embeddings.planning.plan import Plan, plan_text
from dlrm_adahessian.embeddings.table_shard import TableShard


class Lookup(ABC):
    """Look up pooled embeddings, and update the embedding rows that were looked up.

    Not an `nn.Module`: embedding rows have their own optimizer and must not appear among a model's dense parameters.

    Attributes:
        plan: placement of the tables on the ranks, with the memory that it needs.
    """

    def __init__(self, names: Sequence[str], plan: Plan) -> None:
        """Store what all lookups share.

        Args:
            names: names of the F tables, in the order of the features of a lookup.
            plan: placement of the tables.
        """
        self._names = list(names)
        self.plan = plan

    @abstractmethod
    def send(self, kjt: KeyedJaggedTensor) -> None:
        """Start sending the next batch's lookups to the ranks that hold its rows, while this batch is processed.

        Args:
            kjt: the same object that the next `__call__` receives.
        """

    @abstractmethod
    def __call__(self, kjt: KeyedJaggedTensor) -> Tensor:
        """Sum the embedding rows of each bag.

        Args:
            kjt: one feature per table, in the order of the tables, with int64 row numbers and no weights. Each feature has B
                bags, with the same B on all ranks. Other features, or another order, raise a ValueError.

        Returns:
            (B, F, D) pooled embeddings, features in the order of the tables. If gradients are enabled, `push`
            accepts their derivatives until the next lookup with gradients enabled.
        """

    @abstractmethod
    def push(
        self,
        pooled: Tensor,
        grad: Tensor,
        curvature: Tensor | None,
        *,
        lr_scale: float,
        samples: float,
        curvature_samples: int | None = None,
        weights: Tensor | None = None,
        l2: float = 0.0,
    ) -> None:
        """Send derivatives to the ranks that own the rows, and update the rows.

        Pass the derivatives of the mean loss over this rank's batch. The owners receive those of the mean over
        all ranks' batches, which must have equal sizes, padding included.

        Args:
            pooled: (B, F, D), the result of the last lookup with gradients enabled. Any other tensor raises a RuntimeError
                before a row changes.
            grad: (B, F, D) gradient with respect to `pooled`.
            curvature: (B, F, D) Hessian diagonal. For a rule that reads only its mean over D: (B, F, 1). None on a step
                without curvature.
            lr_scale: in [0, 1], the schedule's factor on the learning rate.
            samples: number of samples on all ranks over which the loss is a mean, or the sum of their weights.
            curvature_samples: number of samples included in the curvature, counted from the start of all ranks'
                batches, one after another; None for all.
            weights: (W * B,) sample weights of all ranks' batches, one after another, with the dtype of `grad` and 0 in
                the padding. The derivatives already include them. None for 1 each.
            l2: factor of the penalty l2/2 |row|^2, applied once to each row that was looked up; in units of the mean loss.
        """

    @abstractmethod
    def shards(self) -> dict[str, TableShard]:
        """Return the shards of this rank as views: to load a checkpoint, write to them.

        Returns:
            Shards by name. The name is the table's. A column shard from column 8 of C3 is named "C3[:, 8:]", because a
            rank may hold several.
        """

    def shards_to_save(self) -> list[TableShard]:
        """Return the shards that this rank writes to a checkpoint. Only rank 0 writes replicated tables."""
        replicated = {shard.table for shard in self.plan.shards if shard.sharding == "replicate"}
        return [s for s in self.shards().values() if ranks.is_first() or s.table not in replicated]

    def describe_plan(self) -> str:
        """Return the placement of the tables as text, the same on all ranks."""
        return plan_text(self.plan)

    def tables(self) -> dict[str, Tensor]:
        """Return the embeddings (rows, columns) of this rank by shard name, as views."""
        return {name: shard.tensors["weight"] for name, shard in self.shards().items()}

    def row_states(self) -> dict[str, dict[str, Tensor]]:
        """Return the optimizer state of this rank's embedding rows by shard and state name, as views."""
        return {
            name: {key: tensor for key, tensor in shard.tensors.items() if key != "weight"}
            for name, shard in self.shards().items()
        }

    def _require_order(self, kjt: KeyedJaggedTensor) -> None:
        # TorchRec remembers the feature order of the first batch and would silently mix up features of later ones.
        if kjt.keys() != self._names:
            raise ValueError(
                f"Features must match the tables in order: expected {self._names}, got {kjt.keys()}. Reorder the features."
            )


class NoTables(Lookup):
    """Implement `Lookup` for a model without categorical columns, where every operation is empty."""

    def __init__(self, plan: Plan, dim: int, *, device: torch.device, dtype: torch.dtype) -> None:
        """Store the shape.

        Args:
            plan: a plan without shards, with the memory of each rank's dense part.
            dim: D.
            device: device of the pooled embeddings.
            dtype: dtype of the pooled embeddings.
        """
        super().__init__([], plan)
        self._none = torch.empty(0, 0, dim, device=device, dtype=dtype)

    def send(self, kjt: KeyedJaggedTensor) -> None:
        """Do nothing."""

    def __call__(self, kjt: KeyedJaggedTensor) -> Tensor:
        """Return an empty (B, 0, D) tensor for B bags. Any feature raises a ValueError."""
        self._require_order(kjt)
        return self._none.new_empty(kjt.stride(), 0, self._none.shape[2])

    def push(
        self,
        pooled: Tensor,
        grad: Tensor,
        curvature: Tensor | None,
        *,
        lr_scale: float,
        samples: float,
        curvature_samples: int | None = None,
        weights: Tensor | None = None,
        l2: float = 0.0,
    ) -> None:
        """Do nothing."""

    def shards(self) -> dict[str, TableShard]:
        """Return an empty dict."""
        return {}
