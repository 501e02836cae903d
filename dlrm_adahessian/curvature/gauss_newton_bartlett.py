"""The Gauss-Newton-Bartlett estimate of the Hessian diagonal, as in Sophia.

Liu, Li, Hall, Liang, Ma, "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training", 2023,
algorithm 2. Let the label of sample b be drawn anew from the model, y_b ~ Bernoulli(p_b), and let g be the gradient of
the mean loss L = (1/B) sum_b BCE(z_b, y_b) with these labels. The gradients of single samples are independent, of mean
zero, and E[(p_b - y_b)^2] = p_b (1 - p_b). So the products between samples vanish in expectation (Bartlett), and

    E[B g_theta^2] = (1/B) sum_b p_b (1 - p_b) (dz_b/dtheta)^2,

the diagonal of the Gauss-Newton matrix of L. Where the logit is piecewise linear in each single parameter, it is that
of the Hessian (see `exact`); for other models it leaves out the second derivative of the logit. Never negative.

At the pooled embeddings only the loss of sample b depends on entry (b, f, d), and g there is (1/B) (p_b - y_b)
dz_b/dx: the same B g^2 has expectation (1/B) p_b (1 - p_b) (dz_b/dx)^2, entry for entry. Table rows sum it over their
bags times count^2 (docs/adr/0002), which is B times a sum of squares and not B times the square of the row's summed
gradient: the same expectation without the noise of the products between samples.

Where the loss of sample b has a factor u_b, its sampled gradient has the root of it: squared, that is u_b p_b (1 - p_b)
in place of u_b^2, as of a sample that is drawn u_b times.

On several ranks g is the mean over all of them, which the square must wait for: `squares_of` has the g of this rank.
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
    """Mean over a number of draws of B times the squared gradient with sampled labels."""

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
            if curvature_samples == 0:  # of this rank
                continue
            loss = F.binary_cross_entropy_with_logits(logits, sampled, roots)
            *grads, pooled_grad = torch.autograd.grad(loss, variables, retain_graph=True)
            row.copy_(flat(grads))
            pooled_diagonal.addcmul_(pooled_grad, pooled_grad, value=curvature_samples / self.draws)
        self._keep_state()
        if curvature_samples == len(labels):  # the graph of the whole batch is there
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
        """Draw labels for the samples of all ranks; return those of this rank's, (c,) for its probabilities (c,)."""
        of_all = probability.new_zeros(place.samples)
        ours = slice(place.first, place.first + len(probability))
        of_all[ours] = probability
        return torch.bernoulli(of_all, generator=self._generator)[ours]
