"""Check on a few samples whether one backward pass gives a diagonal for a head, and of which matrix.

`curvature/exact.py` relies on properties that a module's type does not show: each linear layer runs once, on one row per
sample; autograd uses the tensors that the hook sees; no logit depends on other samples. The gradients of single logits
show all three. The matrix follows from second derivatives of the logit, computed by autograd, which the kinks of a ReLU do
not disturb. At the output u = W a of a layer that runs once, d2z/dW_ij^2 = a_j^2 d2z/du_i^2, so the check uses entries of
outputs in place of weights. A logit depends on its own sample only, so one pass can check a different entry per sample.

The check runs on a copy of the head in float64, with small random changes to its parameters and the pooled embeddings.
Otherwise, a last layer that starts at zero would hide all layers before it.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # pyright: ignore[reportPrivateUsage]

from dlrm_adahessian.curvature.layers import Passed, linear_layers, passing
from dlrm_adahessian.curvature.parts import Parts

_SAMPLES = 8
_ENTRIES = 16
"""Number of entries of a layer's outputs, or of the pooled embeddings, to check per sample."""
_MOVE = 0.3
"""Size of the change to an entry of an embedding or a bias; weights divide it by the root of the layer's input size."""
_ROUNDING = 1e-11
"""Far above float64 rounding errors in sums that cancel, as in a factorization machine, and far below any curvature."""
_ONCE = "autograd cannot differentiate it twice"
_OTHER = "use curvature hutchinson, which works with any layers"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Result of the check of a head.

    Attributes:
        parts: the matrix whose diagonal one backward pass computes, per part.
        curved_at: for each Gauss-Newton part, a layer or feature in which the logit has second derivatives.
    """

    parts: Parts
    curved_at: Mapping[str, str]


class _DifferentiableOnceError(RuntimeError):
    """Error for an operation whose second derivative autograd does not know."""


@dataclass(frozen=True)
class _Seen:
    """Forward pass of the copy: inputs (S, K) and (S, F, D), logits (S,), and the inputs and outputs of each layer."""

    dense: Tensor
    pooled: Tensor
    logits: Tensor
    passed: Mapping[str, Passed]


def measured(head: nn.Module, dense: Tensor, pooled: Tensor, *, jointly: bool = False) -> Measured:
    """Check a head on the first samples of a batch, without changing it or any random number generator.

    Raises a ValueError if the head does not run, or if one backward pass does not give a diagonal for it.

    Args:
        head: maps `dense` and `pooled` to logits (B,).
        dense: (B, K) float.
        pooled: (B, F, D) float.
        jointly: check whether the logit is piecewise linear in all outputs of a layer jointly. The Hessian's diagonal in a
            basis other than coordinates requires it.

    Returns:
        The matrix whose diagonal one backward pass computes, per part.
    """
    _refuse_batch_norm(head)
    _refuse_parameters(head)
    generator = torch.Generator().manual_seed(0)
    devices = [dense.device] if dense.is_cuda else []
    # Dropout must use the same random numbers here as in the step.
    with torch.random.fork_rng(devices), torch.enable_grad():
        seen = _forward(head, dense, pooled, generator)
        _refuse_layers(seen)
        _refuse_slopes(seen)
        places = {
            "weights": _curved_layer(seen, generator, jointly=jointly),
            "pooled": _curved_feature(seen, generator),
        }
    curved_at = {part: place for part, place in places.items() if place is not None}
    parts = Parts(
        weights="gauss_newton" if "weights" in curved_at else "hessian",
        pooled="gauss_newton" if "pooled" in curved_at else "hessian",
    )
    return Measured(parts=parts, curved_at=curved_at)


def _refuse_batch_norm(head: nn.Module) -> None:
    """Refuse batch norm in training mode by name. Its trained parameters would be refused too, but for a lesser reason."""
    for place, module in head.named_modules():
        if isinstance(module, BatchNorm) and (module.training or not module.track_running_stats):
            raise ValueError(
                "Curvature in one backward pass needs logits that depend on their own sample only, but "
                f"{place or 'the head'} ({type(module).__name__}) computes statistics of the batch. Use "
                "nn.LayerNorm(elementwise_affine=False) with the Gauss-Newton matrix, or freeze batch norm with eval() "
                "and requires_grad_(False)."
            )


def _refuse_parameters(head: nn.Module) -> None:
    """Refuse trained parameters outside linear layers, and those that two layers share. Constants may be anywhere."""
    owners: dict[nn.Parameter, str] = {}
    for place, module in head.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            full = f"{place}.{name}" if place else name
            if not isinstance(module, nn.Linear) or name not in ("weight", "bias"):
                raise ValueError(
                    f"Curvature in one backward pass supports the weights and biases of nn.Linear only, but {full} "
                    f"belongs to {type(module).__name__}. Freeze it with requires_grad_(False), or {_OTHER}."
                )
            if parameter in owners:
                raise ValueError(
                    "Curvature in one backward pass needs each parameter in one layer only, but "
                    f"{owners[parameter]} and {full} are the same. Use separate parameters, or {_OTHER}."
                )
            owners[parameter] = full


def _forward(head: nn.Module, dense: Tensor, pooled: Tensor, generator: torch.Generator) -> _Seen:
    """Run a copy of the head on the first samples. It uses at least two, to detect dependence on other samples."""
    samples = len(dense)
    first = torch.arange(min(max(samples, 2), _SAMPLES), device=dense.device) % samples

    def moved(tensor: Tensor, scale: float) -> Tensor:
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return tensor.detach().double() + scale * noise.to(tensor.device)

    of_samples = dense[first].detach().double().requires_grad_()
    of_pooled = moved(pooled[first], _MOVE).requires_grad_()
    try:
        twin = copy.deepcopy(head).double()
        with torch.no_grad():
            for parameter in twin.parameters():
                if parameter.requires_grad:
                    inputs = parameter.shape[1] if parameter.ndim == 2 else 1
                    parameter.copy_(moved(parameter, _MOVE / math.sqrt(max(inputs, 1))))
        layers = linear_layers(twin)
        with passing(layers.values()) as passed:
            logits = twin(of_samples, of_pooled)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"The check of the head ran a float64 copy of it on {len(first)} samples, which failed: {error}. Fix the head "
            "or skip the check with ExactDiagonal(parts=Parts(...))."
        ) from error
    if logits.shape != (len(first),):
        raise ValueError(
            f"A head must return logits of shape (B,), but got {tuple(logits.shape)} for B = {len(first)}."
        )
    if not logits.isfinite().all():
        raise ValueError(
            f"A head must return finite logits to be checked, but got {logits.tolist()}. Check its inputs."
        )
    return _Seen(of_samples, of_pooled, logits, _once(layers, passed))


def _once(layers: Mapping[str, nn.Linear], passed: Sequence[Passed]) -> dict[str, Passed]:
    """Return the inputs and outputs of each layer by name. Refuse layers that did not run exactly once."""
    found: dict[str, Passed] = {}
    for name, layer in layers.items():
        runs = [run for run in passed if run[0] is layer]
        if len(runs) != 1:
            raise ValueError(
                "Curvature in one backward pass needs each nn.Linear to run once in a forward pass, but "
                f"{name or 'the head'} ran {len(runs)} times. Call the module exactly once, or {_OTHER}."
            )
        found[name] = runs[0]
    return found


def _refuse_layers(seen: _Seen) -> None:
    """Refuse layers whose inputs do not have one row per sample, or whose outputs have no gradient."""
    samples = len(seen.logits)
    for name, (_, inputs, output) in seen.passed.items():
        if inputs.ndim != 2 or len(inputs) != samples:
            raise ValueError(
                "Curvature in one backward pass needs inputs (B, in) at each nn.Linear, one row per sample, but "
                f"{name or 'the head'} got {tuple(inputs.shape)} for B = {samples}. Change the shape, or {_OTHER}."
            )
        if not output.requires_grad:
            raise ValueError(
                f"{name or 'the head'} runs without gradients, but its parameters require them. Freeze them with "
                "requires_grad_(False), or remove no_grad and detach."
            )


def _refuse_slopes(seen: _Seen) -> None:
    """Refuse gradients of one logit at other samples, and weight gradients that the hooks' tensors do not reproduce."""
    layers = list(seen.passed.items())
    outputs = [output for _, (_, _, output) in layers]
    parameters = [p for _, (layer, _, _) in layers for p in (layer.weight, layer.bias) if _is_trained(p)]
    variables = [seen.dense, seen.pooled, *outputs, *parameters]
    for sample, logit in enumerate(seen.logits):
        slopes = torch.autograd.grad(logit, variables, retain_graph=True, materialize_grads=True)
        of_parameters = dict(zip(parameters, slopes[2 + len(layers) :], strict=True))
        names = ["dense", "pooled", *seen.passed]
        for name, slope in zip(names, slopes, strict=False):
            _refuse_mixed(name, slope, sample)
        for (name, (layer, inputs, _)), delta in zip(layers, slopes[2:], strict=False):
            expected = {layer.weight: torch.outer(delta[sample], inputs[sample]), layer.bias: delta[sample]}
            for parameter, product in expected.items():
                if parameter in of_parameters and not _close(of_parameters[parameter], product):
                    raise ValueError(
                        "Curvature in one backward pass is computed from the inputs and outputs of each nn.Linear, but "
                        f"autograd's gradient of {name or 'the head'} is not their product. Do not overwrite its output, as "
                        "nn.ReLU(inplace=True) does, use its parameters elsewhere, or mix samples."
                    )


def _is_trained(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _refuse_mixed(name: str, slope: Tensor, sample: int) -> None:
    others = slope.clone()
    others[sample] = 0
    if not _close(slope, slope - others):
        raise ValueError(
            f"A logit must depend on its own sample only, but that of sample {sample} depends on {name or 'the head'} of "
            "others. Do not compute statistics of the batch, as BatchNorm does in training, and keep one row per sample."
        )


def _close(found: Tensor, expected: Tensor) -> bool:
    largest = max((float(t.abs().max()) for t in (found, expected) if t.numel()), default=0.0)
    return bool(((found - expected).abs() <= _ROUNDING * largest).all())


def _curved_layer(seen: _Seen, generator: torch.Generator, *, jointly: bool) -> str | None:
    """Return the first layer at whose outputs a logit has second derivatives; None if there is none."""
    for name, (_, _, output) in seen.passed.items():
        try:
            if _curved_entry(seen.logits, output, generator, jointly=jointly) is not None:
                return name or "the head"
        except RuntimeError:  # autograd raises its own for operations without a second derivative
            return f"{name or 'the head'}, where {_ONCE}"
    return None


def _curved_feature(seen: _Seen, generator: torch.Generator) -> str | None:
    """Return a feature at whose pooled embedding a logit has second derivatives; None if there is none."""
    if not seen.pooled.numel():
        return None
    try:
        entry = _curved_entry(seen.logits, seen.pooled, generator, jointly=False)
    except RuntimeError:
        return f"a feature, where {_ONCE}"
    return None if entry is None else f"feature {entry // seen.pooled.shape[2]}, counted from 0"


def _require_second_derivatives(slope: Tensor) -> None:
    """Refuse operations that can be differentiated only once. Autograd would return zero for them."""
    nodes, seen = [slope.grad_fn], set[Node]()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise _DifferentiableOnceError
        nodes += [following for following, _ in node.next_functions]


def _curved_entry(logits: Tensor, place: Tensor, generator: torch.Generator, *, jointly: bool) -> int | None:
    """Return an entry of a sample's part of `place` (S, ...) in which its logit has a second derivative, or None."""
    (slope,) = torch.autograd.grad(logits.sum(), place, create_graph=True, materialize_grads=True)
    if not slope.requires_grad:
        return None
    _require_second_derivatives(slope)
    samples, entries = slope.flatten(1).shape
    asked = [torch.randperm(entries, generator=generator)[:_ENTRIES] for _ in range(samples)]
    steepest = float(slope.detach().square().max())
    for entry in torch.stack(asked, 1).unsqueeze(2).to(slope.device):
        direction = torch.zeros(samples, entries, dtype=slope.dtype, device=slope.device).scatter_(
            1, entry, 1
        )
        (second,) = torch.autograd.grad(
            slope, place, direction.view_as(slope), retain_graph=True, materialize_grads=True
        )
        along = second.flatten(1) if jointly else second.flatten(1).gather(1, entry)
        largest = max(float(second.abs().max()), steepest)
        is_flat = (along.abs() <= _ROUNDING * largest).all(1)
        if not is_flat.all():
            return int(entry[~is_flat][0])
    return None
