# pyright: basic
"""What a step asks of the embedding tables, and the answer of a model that has none."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.embeddings.planning.plan import Plan, plan_text
from dlrm_adahessian.embeddings.table_shard import TableShard


class Lookup(ABC):
    """Pooled lookups into embedding tables, and updates of the rows that were looked up.

    Not an `nn.Module`: the rows have their own rule, and must not turn up among a model's dense parameters.

    Attributes:
        plan: which rank holds what, and whether it fits.
    """

    def __init__(self, names: Sequence[str], plan: Plan) -> None:
        """Keep what is common to all lookups.

        Args:
            names: of the F tables, in the order of the features of a lookup.
            plan: of the tables.
        """
        self._names = list(names)
        self.plan = plan

    @abstractmethod
    def send(self, kjt: KeyedJaggedTensor) -> None:
        """Begin to send the next batch's lookups to the ranks that hold its rows, while this one is worked on.

        Args:
            kjt: as in the call that takes it up.
        """

    @abstractmethod
    def __call__(self, kjt: KeyedJaggedTensor) -> Tensor:
        """Sum the rows of each bag.

        Args:
            kjt: one feature per table, in the order of the tables, int64 rows, no weights; B bags a feature,
                B the same on all ranks.

        Returns:
            (B, F, D) pooled embeddings, features in the order of the tables. With gradients enabled `push`
            takes their derivatives, until the next such lookup. Other features than the tables in their order are refused by
            a ValueError.
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

        The derivatives are those of the mean loss over this rank's batch; the owners receive those of the
        mean over all ranks' batches, which must be of equal size, padding included.

        Args:
            pooled: (B, F, D), what the last lookup with gradients enabled returned.
            grad: (B, F, D) gradient with respect to `pooled`.
            curvature: (B, F, D) Hessian diagonal, or its mean over D (B, F, 1) for a rule that reads no more, or None on a
                step without curvature.
            lr_scale: in [0, 1], the schedule's factor on the learning rate.
            samples: over how many samples of all ranks the loss is a mean, or the sum of their weights.
            curvature_samples: how many samples, the first ones of all ranks' batches one after another, took part in
                the curvature; None for all.
            weights: (W * B,) of the samples of all ranks' batches one after another, of the type of `grad`, 0 in the
                padding; they are in the derivatives already. None for 1 each.
            l2: of the penalty l2/2 |row|^2 on each row that was looked up, once; in units of the mean loss.

        Derivatives of another than the last lookup with gradients enabled are refused by a RuntimeError; no row has
        changed.
        """

    @abstractmethod
    def shards(self) -> dict[str, TableShard]:
        """Return what this rank holds; on one rank that is all of every table. Views: writing is loading.

        Returns:
            By table; a column shard that begins at column 8 of C3 is named "C3[:, 8:]", since a rank may have several.
        """

    def shards_to_save(self) -> list[TableShard]:
        """Return this rank's part of a checkpoint of all ranks: its shards, and of replicated tables rank 0's copy."""
        replicated = {shard.table for shard in self.plan.shards if shard.sharding == "replicate"}
        return [s for s in self.shards().values() if ranks.is_first() or s.table not in replicated]

    def describe_plan(self) -> str:
        """Return who holds what, as text; the same on all ranks."""
        return plan_text(self.plan)

    def tables(self) -> dict[str, Tensor]:
        """Return the rows (rows, columns) that this rank holds, by shard; views."""
        return {name: shard.tensors["weight"] for name, shard in self.shards().items()}

    def row_states(self) -> dict[str, dict[str, Tensor]]:
        """Return the rule's state of the rows that this rank holds, by shard and state name; views."""
        return {
            name: {key: tensor for key, tensor in shard.tensors.items() if key != "weight"}
            for name, shard in self.shards().items()
        }

    def _require_order(self, kjt: KeyedJaggedTensor) -> None:
        # TorchRec remembers the order of the first batch, and would silently mix up features of a later one.
        if kjt.keys() != self._names:
            raise ValueError(
                f"features must be the tables in order, {self._names}, got {kjt.keys()}; reorder them"
            )


class NoTables(Lookup):
    """The lookup of a model without categorical columns: no row is looked up, moved, updated or saved."""

    def __init__(self, plan: Plan, dim: int, *, device: torch.device, dtype: torch.dtype) -> None:
        """Remember the shape.

        Args:
            plan: without shards; what each rank's dense part needs.
            dim: D.
            device: of the pooled embeddings.
            dtype: of the pooled embeddings.
        """
        super().__init__([], plan)
        self._none = torch.empty(0, 0, dim, device=device, dtype=dtype)

    def send(self, kjt: KeyedJaggedTensor) -> None:
        """Send nothing."""

    def __call__(self, kjt: KeyedJaggedTensor) -> Tensor:
        """Return (B, 0, D) for no features of B bags; features are refused by a ValueError."""
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
        """Update nothing."""

    def shards(self) -> dict[str, TableShard]:
        """Return nothing."""
        return {}
