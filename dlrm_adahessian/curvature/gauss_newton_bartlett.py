"""Gauss-Newton-Bartlett estimate of the Hessian diagonal, as in Sophia.

Liu, Li, Hall, Liang, Ma, "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training", 2023,
algorithm 2. Sample the label of sample b from the model, y_b ~ Bernoulli(p_b), and let g be the gradient of the mean loss
L = (1/B) sum_b BCE(z_b, y_b) with these labels. The gradients of single samples are independent with mean zero, and
E[(p_b - y_b)^2] = p_b (1 - p_b). The products between samples therefore vanish in expectation (Bartlett), and

    E[B g_theta^2] = (1/B) sum_b p_b (1 - p_b) (dz_b/dtheta)^2,

the diagonal of the Gauss-Newton matrix of L. If the logit is piecewise linear in each single parameter, this is also the
Hessian's diagonal (see `exact`). For other models it leaves out the second derivative of the logit. It is never negative.

At the pooled embeddings, only the loss of sample b depends on entry (b, f, d), and g is (1/B) (p_b - y_b) dz_b/dx. The
same B g^2 has the expectation (1/B) p_b (1 - p_b) (dz_b/dx)^2 in each entry. Embedding rows sum it over their bags times
count^2 (docs/adr/0002). This is B times a sum of squares, not B times the square of the row's summed gradient: the
expectation is the same, but without the noise of products between samples.

If the loss of sample b has a factor u_b, its sampled gradient has the square root of it. Its square then has
u_b p_b (1 - p_b) instead of u_b^2 p_b (1 - p_b), as for a sample that is drawn u_b times.

With several ranks, g is the mean over all of them and must be averaged before the square. `squares_of` has this rank's g.
"""

from dataclasses import replace

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
    mean_square,
    trained,
    with_curvature,
)


class GaussNewtonBartlett(Seeded):
    """Estimator that averages B times the squared gradient over several draws of labels."""

    def derivatives(self, request: Request) -> Derivatives:
        """Return the derivatives; see `Estimator`."""
        head, dense, pooled, labels = request.head, request.dense, request.pooled, request.labels
        curvature_samples, place, weights = request.curvature_samples, request.place, request.weights
        if place.samples == 0:
            return gradient(head, dense, pooled, labels, weights)
        part = slice(curvature_samples)
        leaf = pooled[part].detach().requires_grad_()
        logits = head(dense[part], leaf)
        variables = [*trained(head), leaf]
        probability = logits.detach().sigmoid()
        squares_of = logits.new_zeros(self.draws, sum(p.numel() for p in variables[:-1]))
        pooled_diagonal = torch.zeros_like(leaf)
        roots = None if weights is None else weights[part].sqrt()
        for row in squares_of:
            sampled = self._labels(probability, place)
            if curvature_samples == 0:  # on this rank
                continue
            loss = F.binary_cross_entropy_with_logits(logits, sampled, roots)
            *grads, pooled_grad = torch.autograd.grad(loss, variables, retain_graph=True)
            row.copy_(flat(grads))
            pooled_diagonal.addcmul_(pooled_grad, pooled_grad, value=curvature_samples / self.draws)
        self._keep_state()
        if curvature_samples == len(labels):  # reuse the graph of the whole batch
            loss = F.binary_cross_entropy_with_logits(logits, labels, weights)
            *grads, pooled_grad = torch.autograd.grad(loss, variables)
            first = Derivatives(
                loss=loss.detach(), logits=logits.detach(), grad=flat(grads), pooled_grad=pooled_grad
            )
        else:
            first = gradient(head, dense, pooled, labels, weights)
        curvature = mean_square(squares_of, curvature_samples)
        found = with_curvature(first, [curvature, pooled_diagonal], curvature_samples, self._pooled)
        return replace(found, squares_of=squares_of)

    def _labels(self, probability: Tensor, place: Place) -> Tensor:
        """Sample labels for all ranks, and return those of this rank's samples, (c,) for their probabilities (c,)."""
        of_all = probability.new_zeros(place.samples)
        ours = slice(place.first, place.first + len(probability))
        of_all[ours] = probability
        return torch.bernoulli(of_all, generator=self._generator)[ours]
