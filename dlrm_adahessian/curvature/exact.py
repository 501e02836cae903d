"""The exact Hessian diagonal, in the backward pass that makes the gradient.

Where the logit z_b of sample b is piecewise linear in each single parameter, d2z_b/dtheta2 = 0 almost everywhere and
for L = (1/B) sum_b BCE(z_b, y_b), p_b = sigmoid(z_b),

    diag(H)_theta = (1/B) sum_b p_b (1 - p_b) (dz_b/dtheta)^2.

For a linear layer u = W a + b with delta_b = dz_b/du that is one more matrix product beside the gradient's: with
r_b = (p_b - y_b)/B and w_b = p_b (1 - p_b)/B,

    grad_W = (r delta)^T a,   diag_W = (w delta^2)^T a^2.

So backward is seeded with dz and carries delta alone; r and w enter layer by layer. Scaling the gradient of the loss by
w / r^2 instead would ruin confident samples, where p rounds to y in float32. That the Hessian and the Gauss-Newton
matrix of a piecewise-linear network share their diagonal blocks: Botev, Ritter, Barber, "Practical Gauss-Newton
Optimisation for Deep Learning", 2017. Table rows: docs/adr/0002.

All terms of diag_W are of one sign, so nothing cancels: operands rounded to bfloat16 change no entry by more than 2^-7
of it, and most by far less, since roundings of many samples average out. The gradient has no such luck.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlrm_adahessian.curvature.base import Derivatives, Place, gradient
from dlrm_adahessian.curvature.fused import fuses, layer_sums_, multiplies_bf16, pooled_derivatives
from dlrm_adahessian.precision import Precision, matrix_products

_PIECEWISE_LINEAR = (nn.Linear, nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Sequential, nn.ModuleList)
_REMEDY = "use --curvature hutchinson for this model"


class ExactDiagonal:
    """Gradient and exact Hessian diagonal of a head of linear layers, ReLUs and dot interactions."""

    def __init__(self, precision: Precision = "fp32") -> None:
        """Take `precision` for the operands of the diagonal's own products."""
        self.state: dict[str, Tensor] = {}
        self._precision: Precision = precision
        self._delta_scratch, self._input_scratch = _Scratch(), _Scratch()

    def load_state(self) -> None:
        """There is none."""

    def __call__(
        self,
        head: nn.Module,
        dense: Tensor,
        pooled: Tensor,
        labels: Tensor,
        *,
        curvature_samples: int,
        place: Place | None = None,
    ) -> Derivatives:
        """Return the derivatives; see `Estimator`. `refuse_inexact` says for which heads they are right."""
        del place  # nothing is drawn at random
        if curvature_samples == 0:
            return gradient(head, dense, pooled, labels)
        leaf = pooled.detach().requires_grad_()
        with _linear_layers(head) as layers:
            logits = head(dense, leaf)
        deltas = torch.autograd.grad(
            logits, [*(output for _, _, output in layers), leaf], torch.ones_like(logits)
        )
        logits = logits.detach()
        residual, weight = _residual_and_weight(logits, labels)
        residual /= len(labels)
        weight = weight[:curvature_samples] / curvature_samples
        grad, grad_of = _empty_like_parameters(head)
        curvature, curvature_of = _empty_like_parameters(head)
        for (layer, inputs, _), delta in zip(layers, deltas[:-1], strict=True):
            if fuses(delta):
                rounded = (
                    self._precision == "bf16" and delta.dtype == torch.float32 and multiplies_bf16(delta)
                )
                layer_sums_(layer, delta, inputs, residual, weight, grad_of, curvature_of, rounded=rounded)
            else:
                self._weighted_sums(inputs, delta, residual, layer, grad_of, square=False)
                with matrix_products(self._precision):
                    self._weighted_sums(inputs, delta, weight, layer, curvature_of, square=True)
        pooled_grad, pooled_curvature = pooled_derivatives(deltas[-1], residual, weight)
        return Derivatives(
            loss=F.binary_cross_entropy_with_logits(logits, labels),
            logits=logits,
            grad=grad,
            pooled_grad=pooled_grad,
            curvature=curvature,
            pooled_curvature=pooled_curvature,
            pooled_samples=curvature_samples,
        )

    def _weighted_sums(
        self,
        inputs: Tensor,
        delta: Tensor,
        weight: Tensor,
        layer: nn.Linear,
        out: dict[Tensor, Tensor],
        *,
        square: bool,
    ) -> None:
        """Write sum_b weight_b * outer(delta_b, inputs_b) and sum_b weight_b * delta_b of one layer.

        Args:
            inputs: (B, in).
            delta: (B, out).
            weight: (n,), of the first n samples; the others take no part.
            layer: whose weight and bias name the places in `out`.
            out: where the sums go.
            square: take the squares of `inputs` and `delta`.
        """
        inputs, delta, column = inputs[: len(weight)], delta[: len(weight)], weight.unsqueeze(1)
        if square:
            inputs = torch.mul(inputs, inputs, out=self._input_scratch.like(inputs))
        # The narrower factor takes the weights.
        if delta.shape[1] <= inputs.shape[1]:
            weighted = torch.mul(delta, column, out=self._delta_scratch.like(delta))
            if square:
                weighted.mul_(delta)
            torch.mm(weighted.T, inputs, out=out[layer.weight])
            if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison], torch types it so
                torch.sum(weighted, 0, out=out[layer.bias])
            return
        if square:
            delta = torch.mul(delta, delta, out=self._delta_scratch.like(delta))
        weighted = torch.mul(inputs, column, out=self._input_scratch.like(inputs))
        torch.mm(delta.T, weighted, out=out[layer.weight])
        if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison], torch types it so
            torch.mv(delta.T, weight, out=out[layer.bias])


class _Scratch:
    """Memory for one intermediate result at a time: a fresh one of megabytes costs more than what is computed."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def like(self, tensor: Tensor) -> Tensor:
        """Return uninitialised memory of the shape of `tensor`; what it held before is gone."""
        if tensor.is_cuda:
            # Its allocator reuses memory by itself, and a captured graph must own what it writes to.
            return torch.empty_like(tensor)
        if self._memory.numel() < tensor.numel() or self._memory.dtype != tensor.dtype:
            self._memory = tensor.new_empty(tensor.numel())
        return self._memory[: tensor.numel()].view(tensor.shape)


def _empty_like_parameters(head: nn.Module) -> tuple[Tensor, dict[Tensor, Tensor]]:
    """Return an uninitialised flat vector of all parameters, and each parameter's view of it."""
    parameters = list(head.parameters())
    sizes = [p.numel() for p in parameters]
    vector = parameters[0].new_empty(sum(sizes))
    views = zip(parameters, vector.split(sizes), strict=True)
    return vector, {p: view.view_as(p) for p, view in views}


def refuse_inexact(head: nn.Module, table_of_feature: Sequence[str]) -> None:
    """Refuse a model whose logit is not piecewise linear in each single parameter.

    Args:
        head: its modules must be linear layers, ReLUs, containers, or declare `affine_in_each_input = True`,
            which promises that the output is affine in each single entry of the inputs.
        table_of_feature: the table that each feature reads.

    Raises:
        ValueError: the diagonal of this model would not be exact; says where and why.
    """
    for name, module in head.named_modules():
        if isinstance(module, _PIECEWISE_LINEAR) or getattr(module, "affine_in_each_input", False):
            continue
        kind = type(module).__name__
        raise ValueError(
            f"the exact Hessian diagonal needs a logit that is piecewise linear in each parameter, and {kind} "
            f"({name or 'the head'}) is not known to keep it so; {_REMEDY}, or ReLU and no self-interaction"
        )
    for name, module in head.named_modules():
        if list(module.parameters(recurse=False)) and not isinstance(module, nn.Linear):
            raise ValueError(
                f"the exact Hessian diagonal knows the parameters of linear layers only, and {type(module).__name__} "
                f"({name or 'the head'}) has its own; {_REMEDY}"
            )
    names = [name for name, _ in head.named_parameters(remove_duplicate=False)]
    if len(names) > len(list(head.parameters())):
        raise ValueError(
            f"the exact Hessian diagonal needs each parameter in one place, and one of {names} is shared; {_REMEDY}"
        )
    shared = sorted({table for table in table_of_feature if table_of_feature.count(table) > 1})
    if shared:
        raise ValueError(
            f"the exact Hessian diagonal needs one feature per table, since the dot interaction multiplies "
            f"features with each other, and {', '.join(shared)} is read by several; {_REMEDY}, or separate tables"
        )


@contextmanager
def _linear_layers(head: nn.Module) -> Generator[list[tuple[nn.Linear, Tensor, Tensor]]]:
    """Collect (layer, input, output) of each linear layer that runs within the block."""
    seen: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((cast(nn.Linear, layer), inputs[0].detach(), output))

    hooks = [m.register_forward_hook(record) for m in head.modules() if isinstance(m, nn.Linear)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _residual_and_weight(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return p - y and p (1 - p), each (B,), without cancellation for confident samples."""
    sign = 1 - 2 * labels  # -1 where the label is 1
    towards_loss = sign * logits
    wrong = towards_loss.sigmoid()
    return sign * wrong, wrong * (-towards_loss).sigmoid()
