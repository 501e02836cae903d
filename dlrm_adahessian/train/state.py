# pyright: basic
"""The state that training changes: both parts of the model, their optimizers, and the estimator, with checkpoints."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dlrm_adahessian.checkpoint.background import BackgroundSaver
from dlrm_adahessian.checkpoint.reader import Checkpoint
from dlrm_adahessian.checkpoint.writer import Contents, save
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.curvature.registry import make_estimator
from dlrm_adahessian.data.loader import Batch, on_device
from dlrm_adahessian.data.sampling import logit_shift
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.dense_exchange import gathered, total_over_ranks
from dlrm_adahessian.embeddings.config import TableSpec
from dlrm_adahessian.embeddings.sharded_lookup import new_lookup
from dlrm_adahessian.errors import DivergedError, UsageError
from dlrm_adahessian.metrics.binary import probability_from_logit
from dlrm_adahessian.model.config import dense_memory
from dlrm_adahessian.model.dlrm import flatten_parameters_
from dlrm_adahessian.model.dropout import Masks
from dlrm_adahessian.model.registry import new_head
from dlrm_adahessian.runtime.device import Precision, matrix_products

if TYPE_CHECKING:
    from dlrm_adahessian.model.registry import Head
    from dlrm_adahessian.train.start import Start

SCORING_BATCH = 8192
"""Samples per batch and rank when the model only predicts."""


class TrainState:
    """The model and its optimizers during training. Needs a process group."""

    def __init__(
        self,
        config: RunConfig,
        schema: Schema,
        num_rows: Sequence[int],
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        values_per_bag: Sequence[float] | None = None,
        start: "Start | None" = None,
    ) -> None:
        """Build the model. Initial weights come from `start`, or depend only on the seed and the model.

        Args:
            config: settings of the run.
            schema: schema of the data.
            num_rows: number of embedding rows of each table.
            device: device of this rank.
            dtype: dtype of weights, optimizer state, and derivatives.
            values_per_bag: mean number of tokens per bag of each feature, used to plan memory; None for one each.
            start: run to start from; None for random weights.

        Raises:
            UsageError: the estimator does not support this model, or a setting names an unknown table.
        """
        config.distributed.require_tables(schema.features)
        self.dtype = dtype
        self.l2_weights, self.l2_rows = config.model.l2_weights, config.model.l2_rows
        self.precision: Precision = config.precision
        self.logit_shift = logit_shift(schema.label)
        self._device = device
        generator = torch.Generator().manual_seed(config.seed)
        self.head = new_head(
            config.model,
            num_dense=len(schema.dense),
            num_features=len(num_rows),
            generator=generator,
            dtype=dtype,
        ).to(device)
        self.parameters = flatten_parameters_(self.head)
        if start is not None:  # before an optimizer copies the parameters
            start.checkpoint.restore_({"parameters": self.parameters}, [], partly=True)
        at_most = -(-config.batch_size // ranks.world_size())
        self.masks = Masks(self.head, samples=at_most, seed=config.seed)
        shapes = [p.shape for p in self.head.parameters()]
        self.dense_optimizer = config.optim.dense.build(self.parameters, shapes)
        self.columns = config.optim.columns.build(self.parameters, len(num_rows), config.model.embedding_dim)
        tables = [
            TableSpec(
                name=name,
                num_rows=rows,
                dim=config.model.embedding_dim,
                sharding=config.distributed.sharding_of(name),
                values_per_bag=values,
                initial_bound=config.model.initial_rows,
            )
            for name, rows, values in zip(
                schema.features, num_rows, values_per_bag or [1.0] * len(num_rows), strict=True
            )
        ]
        dense = dense_memory(
            config.model,
            parameter_bytes=self.parameters.nbytes,
            state_bytes=self.dense_optimizer.num_bytes(self.parameters)
            + (0 if self.columns is None else self.columns.num_bytes()),
            num_dense=len(schema.dense),
            num_features=len(num_rows),
        )
        rule = config.optim.rows.build()
        self.lookup = new_lookup(
            tables,
            dim=config.model.embedding_dim,
            rule=rule,
            device=device,
            dtype=dtype,
            seed=config.seed,
            batch_size=config.batch_size,
            dense=dense,
            memory_bytes=config.distributed.memory_bytes,
            exchange=config.exchange_precision,
        )
        if start is not None:
            self._go_on_from_(start, rule.sums, config.init_row_decay)
        try:
            self.estimator = make_estimator(
                config.curvature,
                self.head.parts,
                schema.features,
                probes=config.curvature_probes,
                precision=config.curvature_precision,
                pooled=config.optim.rows.pooled_curvature,
                seed=config.seed,
                device=device,
                basis=self.dense_optimizer.basis,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error

    def score(self, batches: Iterable[Batch]) -> npt.NDArray[np.float32]:
        """Return the probabilities of all samples, (N,) float32. Arguments and errors are those of `logits`."""
        return np.concatenate([probability_from_logit(part) for part in self.logits(batches)])

    @torch.no_grad()
    def logits(self, batches: Iterable[Batch]) -> list[npt.NDArray[np.float32]]:
        """Return the logits of all samples for the population, on every rank.

        Args:
            batches: this rank's share of each batch, `SCORING_BATCH` samples: the last bits of a logit depend on it.

        Returns:
            (B,) float32 for each batch.

        Raises:
            DivergedError: a prediction is not finite.
        """
        head = self.served_head()
        with matrix_products(self.precision):
            logits = [
                gathered(self._logits(head, batch), batch.share) for batch in on_device(batches, self._device)
            ]
        if not all(bool(part.isfinite().all()) for part in logits):
            raise DivergedError(
                "The predictions of the model are not finite, so it diverged. Lower --optim.dense.lr and "
                "--optim.rows.lr, or add warm-up with --optim.schedule.warmup 0.05."
            )
        return [part.numpy() for part in logits]

    def save(
        self,
        folder: Path,
        step: int,
        state: dict[str, Any],
        fingerprint: str,
        *,
        keep: int = 2,
        background: BackgroundSaver | None = None,
    ) -> None:
        """Write a checkpoint with `writer.save`; with `background`, without blocking training."""
        begin = save if background is None else background.begin
        begin(
            folder,
            Contents(dense=self._dense_tensors(), shards=self.lookup.shards_to_save(), state=state),
            step=step,
            fingerprint=fingerprint,
            keep=keep,
        )

    def restore_(self, found: Checkpoint) -> None:
        """Restore a checkpoint of the same configuration."""
        found.restore_(self._dense_tensors(), list(self.lookup.shards().values()))
        self.dense_optimizer.resume_(self.parameters)
        self.estimator.load_state()
        self.masks.load_state()

    def _go_on_from_(self, start: "Start", sums: Sequence[str], decay: float) -> None:
        """Load the embedding rows and the optimizer state of another run. Rows that it lacks keep their initial values."""
        dense: dict[str, Tensor] = {}
        if start.with_state:
            dense = {"parameters": self.dense_optimizer.served(self.parameters), **self._optimizer_tensors()}
        heights, held = start.checkpoint.table_rows, list(self.lookup.shards().values())
        known = [
            shard.among(heights[shard.table], list(shard.tensors) if start.with_state else ["weight"])
            for shard in held
        ]
        start.checkpoint.restore_(dense, known, partly=True)
        if not start.with_state:
            return
        self.dense_optimizer.resume_(self.parameters)
        for shard in known:
            for name in sums:
                shard.tensors[name].mul_(decay)

    def num_bytes(self) -> int:
        """Return the bytes of weights and optimizer state, replicas counted once. A collective: all ranks call it."""
        tables = [tensor for shard in self.lookup.shards_to_save() for tensor in shard.tensors.values()]
        dense = sum(tensor.nbytes for tensor in self._dense_tensors().values())
        return dense + total_over_ranks(sum(tensor.nbytes for tensor in tables))

    @torch.no_grad()
    def served_head(self) -> "Head":
        """Return the head for predictions, with the parameters that the optimizer serves, for the population.

        The result is a copy if it differs from the head in training.
        """
        served = self.dense_optimizer.served(self.parameters)
        if served is self.parameters and not self.logit_shift:
            return self.head
        head = copy.deepcopy(self.head)
        flatten_parameters_(head).copy_(served)
        head.bias.add_(self.logit_shift)
        return head

    def _logits(self, head: "Head", batch: Batch) -> Tensor:
        """Return the logits of this rank's samples, (count,) on the CPU."""
        pooled = self.lookup(batch.kjt)[: len(batch.dense)]
        return head(batch.dense.to(self.dtype), pooled)[: batch.share.count].cpu()

    def _dense_tensors(self) -> dict[str, Tensor]:
        return {
            "parameters": self.dense_optimizer.served(self.parameters),
            **self._optimizer_tensors(),
            **{f"estimator/{name}": tensor for name, tensor in self.estimator.state.items()},
            **{f"dropout/{name}": tensor for name, tensor in self.masks.state.items()},
        }

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        columns = self.columns.state if self.columns is not None else {}
        return {
            **{f"optimizer/{name}": tensor for name, tensor in self.dense_optimizer.state.items()},
            **{f"columns/{name}": tensor for name, tensor in columns.items()},
        }
