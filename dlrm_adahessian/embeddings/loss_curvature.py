# pyright: basic
"""Compute curvature at the pooled embeddings from the gradient and one factor per sample.

At the pooled embeddings the diagonal is the squared gradient, elementwise, times a factor per sample (curvature/exact.py).
TorchRec's backward pass sends the gradient to the owners of the rows, so ranks exchange only the factors, B numbers each.
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
    """Compute a mean loss whose backward pass knows the curvature of each sample."""

    def __init__(self, wanted: PooledCurvature) -> None:
        """Store which curvature the rule reads."""
        self._wanted: PooledCurvature = wanted
        self._own: Tensor | None = None
        self._of_all_ranks: Tensor | None = None

    def log_loss(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the mean binary cross-entropy; see `RowRuleSharder.log_loss`."""
        if logits.shape != labels.shape or logits.numel() != len(logits):
            raise ValueError(
                "Expected one logit and one label per sample, got logits of shape "
                f"{tuple(logits.shape)} and labels of shape {tuple(labels.shape)}. Pass both as (B,)."
            )
        if weight is not None and weight.shape != logits.shape:
            raise ValueError(
                f"Expected one weight per sample, got weights of shape {tuple(weight.shape)} for logits of shape "
                f"{tuple(logits.shape)}. Pass both as (B,)."
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
            grad: (N, T, D) gradient of the mean loss over all ranks' samples, or over this rank's.
            sees_all_ranks: whether `grad` covers all ranks' samples.

        Returns:
            (N, T, D), its mean over D (N, T, 1), or None, depending on what the rule reads.

        Raises:
            RuntimeError: the backward pass belongs to a loss that `log_loss` did not compute.
            ValueError: the number of logits differs from the number of samples.
        """
        if self._wanted == "none":
            return None
        exponent = self._of_all_ranks if sees_all_ranks else self._own
        if exponent is None:
            raise RuntimeError(
                "The row rule reads curvature, but this loss provides none. Compute the loss with the sharder's "
                "log_loss(logits, labels), or choose a row rule that reads only gradients."
            )
        if len(exponent) != len(grad):
            raise ValueError(
                f"Expected one logit per sample, got {len(exponent)} logits for {len(grad)} samples looked up. "
                "Pass the logits of the whole batch."
            )
        return pooled_diagonal(grad, exponent.to(grad.dtype), self._wanted)

    def _begin(self, logits: Tensor, labels: Tensor, weights: Tensor, scale: Tensor) -> None:
        """Send the exponents of a loss that was multiplied by the scalar `scale` before the backward pass."""
        precise = torch.promote_types(logits.dtype, torch.float32)
        factors = scale.abs().to(precise) * weights.to(precise)
        _, self._own = residual_and_exponent(logits.to(precise), labels.to(precise), factors)
        self._of_all_ranks = _of_all_ranks(self._own)
        engine: Any = Variable._execution_engine
        engine.queue_callback(self._forget)  # another loss must not use these exponents

    def _forget(self) -> None:
        self._own = self._of_all_ranks = None


def _of_all_ranks(own: Tensor) -> Tensor:
    """Return the ranks' tensors (B,), concatenated to (W * B,).

    Raises:
        ValueError: B differs between ranks.
    """
    sizes = _gathered(torch.tensor([len(own)], device=own.device)).tolist()
    if len(set(sizes)) > 1:
        raise ValueError(
            f"A row rule that reads curvature needs equal batch sizes on all ranks, got {sizes}. "
            "Drop the smaller last batch (drop_last)."
        )
    return _gathered(own)


def _gathered(own: Tensor) -> Tensor:
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return torch.cat(found)
