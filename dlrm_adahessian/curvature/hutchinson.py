"""Hutchinson's estimate of the Hessian diagonal, as in AdaHessian.

E[z * (H z)] = diag(H) for z of independent random signs (Rademacher). H z is the gradient of <grad L, z>, computed with
a second backward pass through the first. Yao et al. 2020, section 3.1; Hutchinson, "A stochastic estimator of the trace of
the influence matrix", 1990. The estimate is unbiased for every twice differentiable model. Its noise comes from the
off-diagonal of H. Embedding rows are not part of it: autograd stops at the pooled embeddings, where each sample has its own
probe. H z is linear in the loss. If all ranks use equal probes of the dense part, the mean over ranks of z * (H z) is that
of the whole batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrm_adahessian.curvature.base import (
    Derivatives,
    Place,
    Request,
    Seeded,
    flat,
    gradient,
    trained,
    with_curvature,
)


class Hutchinson(Seeded):
    """Estimator that averages z * (H z) over several probes."""

    def derivatives(self, request: Request) -> Derivatives:
        """Return the derivatives; see `Estimator`."""
        head, dense, pooled, labels = request.head, request.dense, request.pooled, request.labels
        curvature_samples, place, weights = request.curvature_samples, request.place, request.weights
        if place.samples == 0:
            return gradient(head, dense, pooled, labels, weights)
        part = slice(curvature_samples)
        leaf = pooled[part].detach().requires_grad_()
        variables = [*trained(head), leaf]
        diagonal = [torch.zeros_like(v) for v in variables]
        if curvature_samples == 0:  # on this rank
            for _ in range(self.draws):
                self._probe(variables, place)
            self._keep_state()
            return with_curvature(gradient(head, dense, pooled, labels, weights), diagonal, 0, self._pooled)
        whole = curvature_samples == len(labels)
        logits = head(dense[part], leaf)
        of_part = None if weights is None else weights[part]
        loss = F.binary_cross_entropy_with_logits(logits, labels[part], of_part)
        grads = torch.autograd.grad(loss, variables, create_graph=True)
        for probe in range(self.draws):
            signs = self._probe(variables, place)
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
            first = gradient(head, dense, pooled, labels, weights)
        return with_curvature(first, diagonal, curvature_samples, self._pooled)

    def _probe(self, variables: Sequence[Tensor], place: Place) -> list[Tensor]:
        """Draw signs for the parameters, followed by those of this rank's samples among the samples of all ranks."""
        *parameters, leaf = variables
        signs = [random_signs(p, p.shape, self._generator) for p in parameters]
        of_all = random_signs(leaf, torch.Size([place.samples, *leaf.shape[1:]]), self._generator)
        return [*signs, of_all[place.first : place.first + len(leaf)]]


def random_signs(like: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return random signs (1 or -1 with equal probability) of a shape, with the dtype and device of `like`."""
    bits = torch.randint(0, 2, shape, generator=generator, device=like.device)
    return bits.to(like.dtype).mul_(2).sub_(1)
