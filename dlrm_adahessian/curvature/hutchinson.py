"""Hutchinson's estimate of the Hessian diagonal, as in AdaHessian.

E[z * (H z)] = diag(H) for z of independent signs (Rademacher). H z is the gradient of <grad L, z>: a second
backward pass through the first. Yao et al. 2020, section 3.1; Hutchinson, "A stochastic estimator of the trace of the
influence matrix", 1990. Unbiased for every twice differentiable model; its noise comes from the off-diagonal of H.
Table rows take no part: autograd is cut at the pooled embeddings, each sample's with a probe of its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlrm_adahessian.curvature.base import Derivatives, Seeded, flat, gradient, with_curvature


class Hutchinson(Seeded):
    """Mean of z * (H z) over a number of probes."""

    def __call__(
        self, head: nn.Module, dense: Tensor, pooled: Tensor, labels: Tensor, *, curvature_samples: int
    ) -> Derivatives:
        """Return the derivatives; see `Estimator`."""
        if curvature_samples == 0:
            return gradient(head, dense, pooled, labels)
        whole = curvature_samples == len(labels)
        part = slice(curvature_samples)
        leaf = pooled[part].detach().requires_grad_()
        logits = head(dense[part], leaf)
        loss = F.binary_cross_entropy_with_logits(logits, labels[part])
        variables = [*head.parameters(), leaf]
        grads = torch.autograd.grad(loss, variables, create_graph=True)
        diagonal = [torch.zeros_like(v) for v in variables]
        for probe in range(self.draws):
            signs = [self._signs(v) for v in variables]
            products = torch.autograd.grad(grads, variables, signs, retain_graph=probe + 1 < self.draws)
            for total, sign, product in zip(diagonal, signs, products, strict=True):
                total.addcmul_(sign, product, value=1 / self.draws)
        self._keep_state()
        if whole:
            first = Derivatives(
                loss=loss.detach(),
                logits=logits.detach(),
                grad=flat([g.detach() for g in grads[:-1]]),
                pooled_grad=grads[-1].detach(),
            )
        else:
            first = gradient(head, dense, pooled, labels)
        return with_curvature(first, diagonal, curvature_samples, self._pooled)

    def _signs(self, like: Tensor) -> Tensor:
        bits = torch.randint(0, 2, like.shape, generator=self._generator, device=like.device)
        return bits.to(like.dtype).mul_(2).sub_(1)
