"""Exact diagonal of the Gauss-Newton matrix, and thus of the Hessian, from the backward pass of the gradient.

For L = (1/B) sum_b BCE(z_b, y_b) with p_b = sigmoid(z_b), the Gauss-Newton matrix has the diagonal

    diag(G)_theta = (1/B) sum_b p_b (1 - p_b) (dz_b/dtheta)^2.

If the logit z_b of sample b is piecewise linear in each single parameter, d2z_b/dtheta2 = 0 almost everywhere, and
diag(H) = diag(G). This may hold for one part of a model and not for another (curvature/parts.py).

For a linear layer u = W a + b with delta_b = dz_b/du, the diagonal takes one more matrix product than the gradient: with
r_b = (p_b - y_b)/B and w_b = p_b (1 - p_b)/B,

    grad_W = (r delta)^T a,   diag_W = (w delta^2)^T a^2.

One backward pass, seeded with r, computes the gradient as usual and brings r delta to each layer's output. There,

    w delta^2 = e (r delta)^2 B,   e_b = p_b (1 - p_b) / (p_b - y_b)^2 = (1 - |p_b - y_b|) / |p_b - y_b|.

With q_b = |p_b - y_b| = sigmoid(s_b), where s_b is the logit, negated if the label is 1, e_b = exp(-s_b). So nothing
cancels for confident samples. A float32 p would ruin e, because it rounds to y near a logit of 17. A label between 0 and 1
has r_b = (1 - y_b) p_b - y_b (1 - p_b). Its e_b comes from logarithms and is unbounded if r_b is 0, so r_b stays at least
eps sqrt(p_b (1 - p_b)) away from 0. This changes the gradient by less than its rounding error, since the standard deviation
of a label is sqrt(p_b (1 - p_b)). It does not change e_b r_b^2.

The Hessian and the Gauss-Newton matrix of a piecewise-linear network share their diagonal blocks: Botev, Ritter, Barber,
"Practical Gauss-Newton Optimisation for Deep Learning", 2017. For embedding rows, see docs/adr/0002.

The block of W in the Gauss-Newton matrix is (1/B) sum_b p_b (1 - p_b) (delta_b delta_b^T) (x) (a_b a_b^T). Its diagonal is
therefore exact in any Kronecker basis too, and it is the Hessian's if the logit is piecewise linear in all of W jointly. In
such a basis (optim/basis.py), inputs and deltas are multiplied by it before they are squared. Nothing else changes.

At the pooled embeddings, the diagonal follows elementwise from the backward pass. Embedding rows therefore have it for all
samples at every step, even if the dense part does not.

If the loss of sample b has a factor u_b, so do r_b and w_b, and e_b is exp(-s_b) / u_b. If u_b is 0, so is r_b, and
any finite e_b will do.

All terms of diag_W have the same sign, so nothing cancels. Rounding the operands to bfloat16 changes an entry by at most
2^-7 of it, and usually far less, because rounding errors of many samples average out. The gradient has no such bound.
"""

import math
from collections.abc import Sequence
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlrm_adahessian.curvature.base import Derivatives, Estimator, Request, flat, trained
from dlrm_adahessian.curvature.check import measured
from dlrm_adahessian.curvature.gpu import fuses, layer_curvature_, multiplies_bf16
from dlrm_adahessian.curvature.layers import Passed, linear_layers, passing
from dlrm_adahessian.curvature.parts import Kind, Parts
from dlrm_adahessian.optim.base import PooledCurvature
from dlrm_adahessian.optim.basis import KroneckerBasis, Matrix
from dlrm_adahessian.runtime.device import Precision, cpu_gains_from_bf16, matrix_products


class ExactDiagonal(Estimator):
    """Gradient and exact diagonal of a head of linear layers.

    Without `parts`, the first call checks the head (curvature/check.py). The head must keep its structure after that.
    """

    def __init__(
        self,
        precision: Precision = "fp32",
        pooled: PooledCurvature = "entries",
        basis: KroneckerBasis | None = None,
        *,
        kind: Kind = "hessian",
        parts: Parts | None = None,
    ) -> None:
        """Choose how to compute the diagonal.

        Args:
            precision: precision of the operands in the products of the diagonal. bf16 needs a CPU with AMX or a GPU; others
                use fp32.
            pooled: the diagonal to compute at the pooled embeddings.
            basis: basis of the weight matrices, in the order of `trained(head)`; None for coordinates.
            kind: "hessian" raises a ValueError for heads whose Hessian has another diagonal, here if `parts` say so,
                otherwise in the first call; "gauss_newton" accepts any head of linear layers.
            parts: the known parts of the head, which skips the check; None to check it.
        """
        super().__init__()
        if parts is not None and kind == "hessian":
            parts.require_hessian()
        self._kind: Kind = kind
        self._vouched = parts is not None
        self._measured: WeakSet[nn.Module] = WeakSet()
        self._precision: Precision = precision
        self._pooled: PooledCurvature = pooled
        self._basis = basis

    def derivatives(self, request: Request) -> Derivatives:
        """Return the derivatives; see `Estimator`.

        Every call computes the curvature at the pooled embeddings for all samples. Raises a ValueError if the diagonal would
        be wrong for the head, or of the wrong kind.
        """
        head, labels, curvature_samples = request.head, request.labels, request.curvature_samples
        self._require_kind(request)
        leaf, parameters = request.pooled.detach().requires_grad_(), trained(head)
        with passing(linear_layers(head).values() if curvature_samples else ()) as layers:
            logits = head(request.dense, leaf)
        residual, exponent = residual_and_exponent(logits.detach(), labels, request.weights)
        residual /= len(labels)
        variables = [*parameters, leaf, *(output for _, _, output in layers)]
        slopes = torch.autograd.grad(logits, variables, residual)
        pooled_grad, deltas = slopes[len(parameters)], slopes[len(parameters) + 1 :]
        curvature = factors = None
        if curvature_samples:
            weight = exponent[:curvature_samples].exp().mul_(len(labels) ** 2 / curvature_samples)
            passed = [
                (layer, inputs[:curvature_samples], delta[:curvature_samples])
                for (layer, inputs, _), delta in zip(layers, deltas, strict=True)
            ]
            rounds = self._precision != "bf16" or logits.is_cuda or cpu_gains_from_bf16()
            with matrix_products(self._precision if rounds else "fp32"):
                if self._basis is not None:
                    factors = _factors(self._basis, parameters, passed, weight, request.weights)
                if self._basis is None or self._basis.diagonal:
                    curvature, curvature_of = _empty_like_parameters(parameters, passed)
                    bases = _bases_of(self._basis, parameters)
                    for layer, inputs, delta in passed:
                        self._layer_curvature_(
                            layer, inputs, delta, weight, curvature_of, bases.get(layer.weight)
                        )
        return Derivatives(
            loss=F.binary_cross_entropy_with_logits(logits.detach(), labels, request.weights),
            logits=logits.detach(),
            grad=flat(slopes[: len(parameters)]),
            pooled_grad=pooled_grad,
            curvature=curvature,
            pooled_curvature=pooled_diagonal(pooled_grad, exponent, self._pooled),
            pooled_samples=0 if self._pooled == "none" else len(labels),
            factors=factors,
        )

    def _require_kind(self, request: Request) -> None:
        """Check a head of unknown parts, once."""
        if self._vouched or request.head in self._measured:
            return
        found = measured(request.head, request.dense, request.pooled, jointly=self._basis is not None)
        if self._kind == "hessian":
            found.parts.require_hessian(found.curved_at)
        self._measured.add(request.head)

    def _layer_curvature_(
        self,
        layer: nn.Linear,
        inputs: Tensor,
        delta: Tensor,
        weight: Tensor,
        out: dict[Tensor, Tensor],
        basis: Matrix | None = None,
    ) -> None:
        """Write sum_b weight_b * outer(delta_b^2, inputs_b^2) and sum_b weight_b * delta_b^2 of one layer to `out`.

        Args:
            layer: layer whose weight and bias are the keys of `out`.
            inputs: (C, in).
            delta: (C, out).
            weight: (C,).
            out: tensors that receive the sums.
            basis: basis of the weight. The bias stays in coordinates.
        """
        if basis is not None:
            self._layer_curvature_(layer, basis.turn_inputs(inputs), basis.turn_outputs(delta), weight, out)
            if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison], torch types it so
                torch.mv(delta.square().T, weight, out=out[layer.bias])
            return
        if fuses(delta):
            rounded = self._precision == "bf16" and delta.dtype == torch.float32 and multiplies_bf16(delta)
            layer_curvature_(layer, inputs, delta, weight, out, rounded=rounded)
            return
        delta_square, input_square = delta * delta, inputs * inputs
        delta_is_narrow = delta.shape[1] <= inputs.shape[1]
        (delta_square if delta_is_narrow else input_square).mul_(weight.unsqueeze(1))
        torch.mm(delta_square.T, input_square, out=out[layer.weight])
        if layer.bias is None:  # pyright: ignore[reportUnnecessaryComparison], torch types it so
            return
        if delta_is_narrow:
            torch.sum(delta_square, 0, out=out[layer.bias])
        else:
            torch.mv(delta_square.T, weight, out=out[layer.bias])


def _empty_like_parameters(
    parameters: Sequence[Tensor], passed: Sequence[Passed]
) -> tuple[Tensor, dict[Tensor, Tensor]]:
    """Return an uninitialized flat vector of all parameters and a view for each. Views of frozen ones are separate."""
    sizes = [p.numel() for p in parameters]
    vector = parameters[0].new_empty(sum(sizes))
    views = zip(parameters, vector.split(sizes), strict=True)
    frozen = (p for layer, _, _ in passed for p in layer.parameters(recurse=False) if not p.requires_grad)
    return vector, {
        **{p: view.view_as(p) for p, view in views},
        **{p: torch.empty_like(p) for p in frozen},
    }


def _factors(
    basis: KroneckerBasis,
    parameters: Sequence[Tensor],
    passed: Sequence[Passed],
    weight: Tensor,
    of_samples: Tensor | None,
) -> Tensor:
    """Return the Kronecker factors (K,): sum_c weight_c delta_c delta_c^T, and the mean of inputs_c inputs_c^T.

    Args:
        basis: basis that the factors belong to.
        parameters: parameters of the head.
        passed: layers of the head, with their inputs and deltas.
        weight: (C,).
        of_samples: (B,) weights of the samples in that mean, of which the first C are used; None for 1 each.
    """
    vector = torch.empty_like(basis.state["factors"])
    views = {parameters[i]: parts for i, parts in basis.views(vector).items()}
    for layer, inputs, delta in passed:
        output_factor, input_factor = views.get(layer.weight, (None, None))
        if output_factor is not None:
            torch.mm((delta * weight.unsqueeze(1)).T, delta, out=output_factor)
        if input_factor is not None:
            counted = inputs if of_samples is None else inputs * of_samples[: len(inputs), None]
            torch.mm(inputs.T, counted / len(inputs), out=input_factor)
    return vector


def _bases_of(basis: KroneckerBasis | None, parameters: Sequence[Tensor]) -> dict[Tensor, Matrix]:
    return {} if basis is None else {parameters[i]: matrix for i, matrix in basis.matrices.items()}


def pooled_diagonal(grad: Tensor, exponent: Tensor, wanted: PooledCurvature) -> Tensor | None:
    """Return the diagonal of the mean loss at the pooled embeddings, elementwise from its gradient there.

    Args:
        grad: (B, F, D).
        exponent: (B,), from `residual_and_exponent`.
        wanted: the diagonal to return.

    Returns:
        (B, F, D), or its mean over D (B, F, 1), or None if `wanted` is none.
    """
    if wanted == "none":
        return None
    samples, _, width = grad.shape
    # Multiply before the square, because squares of small values underflow.
    scale = (exponent / 2).exp().mul_(samples**0.5).view(-1, 1, 1)
    if wanted == "mean":
        norm = torch.linalg.vector_norm(grad, dim=2, keepdim=True)
        return norm.mul_(scale).square_().div_(width)
    return (grad * scale).square_()


def residual_and_exponent(logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return r = u (p - y) and log(u p (1 - p) / r^2), (B,), accurate for confident samples; u is `weights` or 1."""
    sign = 1 - 2 * labels  # -1 if the label is 1
    towards_loss = sign * logits
    residual = sign * towards_loss.sigmoid()
    exponent = towards_loss.neg_()
    # Reading a value from a GPU would stall it.
    if labels.is_cuda or not torch.equal(labels.square(), labels):
        is_hard, (soft_residual, soft_exponent) = labels.square() == labels, _of_soft_labels(logits, labels)
        residual = torch.where(is_hard, residual, soft_residual)
        exponent = torch.where(is_hard, exponent, soft_exponent)
    if weights is not None:
        residual *= weights
        exponent -= weights.log()
    # Keep half of the dtype's range for the squares that this multiplies. It matters in float32 if p (1 - p) < 5e-18.
    largest = 0.45 * math.log(torch.finfo(logits.dtype).max)
    return residual, exponent.clamp_(max=largest)


def _of_soft_labels(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return p - y, kept away from 0, and log(p (1 - p) / (p - y)^2), (B,)."""
    residual = (1 - labels) * logits.sigmoid() - labels * (-logits).sigmoid()
    log_variance = F.logsigmoid(logits) + F.logsigmoid(-logits)
    size = residual.abs().maximum((log_variance / 2).exp() * torch.finfo(logits.dtype).eps)
    return size.copysign(residual), log_variance - 2 * size.log()
