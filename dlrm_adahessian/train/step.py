# pyright: basic
"""All that training changes: the two halves of the model, their optimizers, the estimator; and its checkpoints."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dlrm_adahessian.checkpoint.background import BackgroundSaver
from dlrm_adahessian.checkpoint.reader import Checkpoint
from dlrm_adahessian.checkpoint.writer import save
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.curvature.base import Derivatives, Place
from dlrm_adahessian.curvature.registry import make_estimator
from dlrm_adahessian.data.loader import Batch, on_device
from dlrm_adahessian.data.schema import NUM_INTEGERS, TOKEN_NAMES
from dlrm_adahessian.distributed.dense_exchange import gathered, over_ranks, total_over_ranks
from dlrm_adahessian.embeddings.planning.dense_memory import dense_memory
from dlrm_adahessian.embeddings.sharded_lookup import ShardedLookup
from dlrm_adahessian.embeddings.table_spec import TableSpec
from dlrm_adahessian.errors import DivergedError, UsageError
from dlrm_adahessian.metrics.binary import probability_from_logit
from dlrm_adahessian.model.dlrm import Head, flatten_parameters_
from dlrm_adahessian.runtime.precision import Precision, matrix_products

SCORING_BATCH = 8192
"""Rows per batch and rank where nothing is learnt."""


class TrainState:
    """The model in training; needs a process group."""

    def __init__(
        self,
        config: RunConfig,
        num_rows: Sequence[int],
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Build the model with its initial weights, which depend on the seed and the model alone.

        Args:
            config: of the run.
            num_rows: height of each table.
            device: where it computes.
            dtype: of weights, optimizer state and derivatives.

        Raises:
            UsageError: the estimator is not right for this model.
        """
        self._device, self._dtype = device, dtype
        self._precision: Precision = config.precision
        generator = torch.Generator().manual_seed(config.seed)
        self.head = Head(
            config.model,
            num_dense=NUM_INTEGERS,
            num_features=len(num_rows),
            generator=generator,
            dtype=dtype,
        ).to(device)
        self.parameters = flatten_parameters_(self.head)
        shapes = [p.shape for p in self.head.parameters()]
        self.dense_optimizer = config.optim.dense.build(self.parameters, shapes)
        tables = [
            TableSpec(
                name=name,
                num_rows=rows,
                dim=config.model.embedding_dim,
                sharding=config.distributed.sharding_of(name),
            )
            for name, rows in zip(TOKEN_NAMES, num_rows, strict=True)
        ]
        self.lookup = ShardedLookup(
            tables,
            rule=config.optim.rows.build(),
            device=device,
            dtype=dtype,
            seed=config.seed,
            batch_size=config.batch_size,
            dense=dense_memory(
                config.model,
                parameters=self.parameters,
                state=self.dense_optimizer.state.values(),
                num_dense=NUM_INTEGERS,
                num_features=len(num_rows),
            ),
            memory_bytes=config.distributed.memory_bytes,
            exchange=config.exchange_precision,
        )
        try:
            self.estimator = make_estimator(
                config.curvature,
                self.head,
                TOKEN_NAMES,
                probes=config.curvature_probes,
                precision=config.curvature_precision,
                pooled=config.optim.rows.pooled_curvature,
                seed=config.seed,
                device=device,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error

    def derivatives(
        self, batch: Batch, *, curvature_samples: int, following: Batch | None = None
    ) -> tuple[Tensor, Derivatives]:
        """Predict a batch, and differentiate its mean loss over all ranks.

        Args:
            batch: this rank's share.
            curvature_samples: the first samples of the global batch that the curvature is taken of; 0 for none.
            following: the next batch, whose lookups set out meanwhile.

        Returns:
            The pooled embeddings of this rank's samples, and the derivatives as `dense_exchange.over_ranks` returns them.
        """
        pooled, share = self.lookup(batch.kjt), batch.share
        if following is not None:
            self.lookup.send(following.kjt)
        with matrix_products(self._precision):
            found = self.estimator(
                self.head,
                batch.dense.to(self._dtype),
                pooled[: len(batch.dense)],
                batch.labels.to(self._dtype),
                curvature_samples=share.count_among(curvature_samples),
                place=Place(first=min(share.first, curvature_samples), samples=curvature_samples),
            )
        return pooled, over_ranks(found, share, curvature_samples=curvature_samples)

    def update_(self, pooled: Tensor, found: Derivatives, *, lr_scale: float) -> None:
        """Step both optimizers; the arguments belong to one call of `derivatives`."""
        samples = len(found.logits)
        self.dense_optimizer.step(
            self.parameters, found.grad, found.curvature, lr_scale=lr_scale, samples=samples
        )
        self.lookup.push(
            pooled,
            found.pooled_grad,
            found.pooled_curvature,
            lr_scale=lr_scale,
            samples=samples,
            curvature_samples=found.pooled_samples,
        )

    @torch.no_grad()
    def score(self, batches: Iterable[Batch]) -> npt.NDArray[np.float32]:
        """Return the probabilities of all rows, on every rank.

        Args:
            batches: this rank's share of each, of `SCORING_BATCH` rows: a row's last bits depend on it.

        Returns:
            (N,) float32.

        Raises:
            DivergedError: a prediction is not finite.
        """
        with matrix_products(self._precision):
            logits = [
                gathered(self._logits(batch), batch.share) for batch in on_device(batches, self._device)
            ]
        if not all(bool(part.isfinite().all()) for part in logits):
            raise DivergedError(
                "predictions must be finite, and the model's are not: it diverged; lower --optim.dense.lr and "
                "--optim.rows.lr, or add warm-up with --optim.schedule.warmup 0.05"
            )
        return np.concatenate([probability_from_logit(part.numpy()) for part in logits])

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
        """Write a checkpoint, see `writer.save`; with `background`, while training goes on."""
        begin = save if background is None else background.begin
        begin(
            folder,
            step=step,
            dense=self._dense_tensors(),
            shards=self.lookup.shards_to_save(),
            state=state,
            fingerprint=fingerprint,
            keep=keep,
        )

    def restore_(self, found: Checkpoint) -> None:
        """Take up a checkpoint of the same configuration."""
        found.restore_(self._dense_tensors(), list(self.lookup.shards().values()))
        self.estimator.load_state()

    def num_bytes(self) -> int:
        """Return the memory of weights and optimizer state, copies counted once; all ranks call it."""
        tables = [tensor for shard in self.lookup.shards_to_save() for tensor in shard.tensors.values()]
        dense = sum(tensor.nbytes for tensor in self._dense_tensors().values())
        return dense + total_over_ranks(sum(tensor.nbytes for tensor in tables))

    def _logits(self, batch: Batch) -> Tensor:
        """Return the logits of this rank's samples, (count,) on the CPU."""
        pooled = self.lookup(batch.kjt)[: len(batch.dense)]
        return self.head(batch.dense.to(self._dtype), pooled)[: batch.share.count].cpu()

    def _dense_tensors(self) -> dict[str, Tensor]:
        optimizer = {f"optimizer/{name}": tensor for name, tensor in self.dense_optimizer.state.items()}
        estimator = {f"estimator/{name}": tensor for name, tensor in self.estimator.state.items()}
        return {"parameters": self.parameters, **optimizer, **estimator}
