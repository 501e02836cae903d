# pyright: basic
"""What makes curvature of a gradient at the pooled embeddings: one number per sample, on its way with a backward pass.

There the diagonal is elementwise the squared gradient times a factor of the sample (curvature/exact.py). The gradient goes
to the owners of the rows by TorchRec's own backward pass. So the ranks send each other only the factors, B numbers each.
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Variable

from dlrm_adahessian.curvature.exact import pooled_diagonal, residual_and_exponent
from dlrm_adahessian.optim.base import PooledCurvature


class LossCurvature:
    """A mean loss whose backward pass knows the curvature of each sample."""

    def __init__(self, wanted: PooledCurvature) -> None:
        """Remember what the rule reads."""
        self._wanted: PooledCurvature = wanted
        self._own: Tensor | None = None
        self._of_all_ranks: Tensor | None = None

    def log_loss(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the mean binary cross-entropy; see `RowRuleSharder.log_loss`."""
        if logits.shape != labels.shape or logits.numel() != len(logits):
            raise ValueError(
                "the loss needs one logit and one label per sample, got logits of shape "
                f"{tuple(logits.shape)} and labels of shape {tuple(labels.shape)}; pass both as (B,)"
            )
        if weight is not None and weight.shape != logits.shape:
            raise ValueError(
                f"the loss needs one weight per sample, got weights of shape {tuple(weight.shape)} for logits of shape "
                f"{tuple(logits.shape)}; pass both as (B,)"
            )
        loss = F.binary_cross_entropy_with_logits(logits, labels, weight)
        if self._wanted != "none" and loss.requires_grad:
            weights = torch.ones_like(logits) if weight is None else weight
            of_samples = (tensor.detach().flatten() for tensor in (logits, labels, weights))
            loss.register_hook(partial(self._begin, *of_samples))
        return loss

    def at_pooled(self, grad: Tensor, *, sees_all_ranks: bool) -> Tensor | None:
        """Return the curvature of the mean loss, from its gradient at the pooled embeddings.

        Args:
            grad: (N, T, D), of all ranks' samples and their mean loss, or of this rank's and its own.
            sees_all_ranks: which of both.

        Returns:
            (N, T, D), or its mean over D (N, T, 1), or None, as the rule reads it.

        Raises:
            RuntimeError: the backward pass is of another loss.
            ValueError: there is not one logit per sample.
        """
        if self._wanted == "none":
            return None
        exponent = self._of_all_ranks if sees_all_ranks else self._own
        if exponent is None:
            raise RuntimeError(
                "this rule reads curvature, and the backward pass is of a loss that has none for it; take the loss from "
                "log_loss(logits, labels) of the sharder, or a rule that reads gradients alone"
            )
        if len(exponent) != len(grad):
            raise ValueError(
                f"the loss must have one logit per sample, got {len(exponent)} logits for {len(grad)} samples looked up; "
                "pass the logits of the whole batch"
            )
        return pooled_diagonal(grad, exponent.to(grad.dtype), self._wanted)

    def _begin(self, logits: Tensor, labels: Tensor, weights: Tensor, scale: Tensor) -> None:
        """Send the exponents of a loss that is multiplied by `scale` () before the backward pass."""
        precise = torch.promote_types(logits.dtype, torch.float32)
        factors = scale.abs().to(precise) * weights.to(precise)
        _, self._own = residual_and_exponent(logits.to(precise), labels.to(precise), factors)
        self._of_all_ranks = _of_all_ranks(self._own)
        engine: Any = Variable._execution_engine
        engine.queue_callback(self._forget)  # so that no other loss takes them for its own

    def _forget(self) -> None:
        self._own = self._of_all_ranks = None


def _of_all_ranks(own: Tensor) -> Tensor:
    """Return (W * B,) what the ranks have, (B,) each.

    Raises:
        ValueError: the ranks differ in B.
    """
    sizes = _gathered(torch.tensor([len(own)], device=own.device)).tolist()
    if len(set(sizes)) > 1:
        raise ValueError(
            f"a rule that reads curvature needs as many samples on each rank, got {sizes}; leave out the last batch where "
            "it is smaller (drop_last)"
        )
    return _gathered(own)


def _gathered(own: Tensor) -> Tensor:
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return torch.cat(found)
