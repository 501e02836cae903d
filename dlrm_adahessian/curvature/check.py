"""Whether one backward pass makes the diagonal of a head, and of which matrix: measured on a few samples.

`curvature/exact.py` relies on what it cannot see in a module's type: that each linear layer runs once, on a row per sample;
that what its hook sees is what autograd uses; that no logit depends on other samples. All three show in the slopes of
single logits. Which matrix it is shows in the second derivatives of the logit, taken by autograd, for which the kinks of
a ReLU are no trouble. At the output u = W a of a layer that runs once, d2z/dW_ij^2 = a_j^2 d2z/du_i^2, so entries of
outputs stand for those of weights. A logit depends on its own sample alone, so one pass asks each sample for another entry.

A copy of the head in float64 is measured, its parameters and the pooled embeddings moved a little: a last layer that
starts at zero would hide all that comes before it.
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
"""Of a layer's outputs, or of the pooled embeddings, that each sample is asked; all of them where there are no more."""
_MOVE = 0.3
"""Of an embedding's entry or a bias; of a weight over the root of the layer's inputs."""
_ROUNDING = 1e-11
"""Far above what float64 rounds in sums of terms that cancel, as in a factorization machine, and far below any curvature."""
_ONCE = "autograd cannot differentiate it twice"
_OTHER = "use curvature hutchinson, which needs no layers"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a head turned out to be.

    Attributes:
        parts: of which matrix the diagonal of one backward pass is.
        curved_at: for each part that is Gauss-Newton, where its logit was seen to be curved: a layer, a feature.
    """

    parts: Parts
    curved_at: Mapping[str, str]


class _DifferentiableOnceError(RuntimeError):
    """An operation has no second derivative that autograd knows."""


@dataclass(frozen=True)
class _Seen:
    """A forward pass of the copy: inputs (S, K) and (S, F, D), logits (S,), and what passed through each layer."""

    dense: Tensor
    pooled: Tensor
    logits: Tensor
    passed: Mapping[str, Passed]


def measured(head: nn.Module, dense: Tensor, pooled: Tensor, *, jointly: bool = False) -> Measured:
    """Measure a head on the first samples of a batch; neither it nor any generator of random numbers changes.

    A head of whose derivatives the diagonal of one pass says nothing, or that does not run, is refused with a ValueError.

    Args:
        head: maps `dense` and `pooled` to logits (B,).
        dense: (B, K) float.
        pooled: (B, F, D) float.
        jointly: ask whether the logit is piecewise linear in all outputs of a layer at once, which the Hessian's diagonal in
            another basis than the coordinates needs.

    Returns:
        Of which matrix the diagonal is, for each part.
    """
    _refuse_batch_norm(head)
    _refuse_parameters(head)
    generator = torch.Generator().manual_seed(0)
    devices = [dense.device] if dense.is_cuda else []
    # Dropout draws here as it will in the step.
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
    """Refuse batch norm in training by its name: that its parameters are trained would be the lesser reason."""
    for place, module in head.named_modules():
        if isinstance(module, BatchNorm) and (module.training or not module.track_running_stats):
            raise ValueError(
                "the diagonal of one backward pass is a sum over samples, whose logits must not depend on each other, and "
                f"{place or 'the head'} ({type(module).__name__}) takes statistics of the batch; use "
                "nn.LayerNorm(elementwise_affine=False) with the Gauss-Newton matrix, or batch norm in eval(), frozen with "
                "requires_grad_(False)"
            )


def _refuse_parameters(head: nn.Module) -> None:
    """Refuse parameters outside linear layers, and those that two layers share; constants may be anywhere."""
    owners: dict[nn.Parameter, str] = {}
    for place, module in head.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            full = f"{place}.{name}" if place else name
            if not isinstance(module, nn.Linear) or name not in ("weight", "bias"):
                raise ValueError(
                    f"the diagonal of one backward pass is known for the weights and biases of nn.Linear only, and {full} "
                    f"belongs to {type(module).__name__}; freeze it with requires_grad_(False), or {_OTHER}"
                )
            if parameter in owners:
                raise ValueError(
                    "the diagonal of one backward pass needs each parameter in one layer, and "
                    f"{owners[parameter]} and {full} are the same; {_OTHER}"
                )
            owners[parameter] = full


def _forward(head: nn.Module, dense: Tensor, pooled: Tensor, generator: torch.Generator) -> _Seen:
    """Run a copy on the first samples, two at least, so that what depends on another sample shows."""
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
            f"the head must run as a copy in float64 on {len(first)} samples, to be measured, and did not: {error}; or tell "
            "what it is with ExactDiagonal(parts=Parts(...))"
        ) from error
    if logits.shape != (len(first),):
        raise ValueError(
            f"a head returns logits of shape (B,), got {tuple(logits.shape)} for B = {len(first)}"
        )
    if not logits.isfinite().all():
        raise ValueError(
            f"a head must return finite logits to be measured, got {logits.tolist()}; look at its inputs"
        )
    return _Seen(of_samples, of_pooled, logits, _once(layers, passed))


def _once(layers: Mapping[str, nn.Linear], passed: Sequence[Passed]) -> dict[str, Passed]:
    """Return what passed through each layer, by name; refuse those that did not run exactly once."""
    found: dict[str, Passed] = {}
    for name, layer in layers.items():
        runs = [run for run in passed if run[0] is layer]
        if len(runs) != 1:
            raise ValueError(
                "the diagonal of one backward pass needs each nn.Linear to run once in a forward pass, and "
                f"{name or 'the head'} ran {len(runs)} times; call the module, once, or {_OTHER}"
            )
        found[name] = runs[0]
    return found


def _refuse_layers(seen: _Seen) -> None:
    """Refuse layers whose inputs or outputs have not a row per sample, or no slopes."""
    samples = len(seen.logits)
    for name, (_, inputs, output) in seen.passed.items():
        if inputs.ndim != 2 or len(inputs) != samples:
            raise ValueError(
                "the diagonal of one backward pass needs inputs (B, in) at each nn.Linear, one row per sample, and "
                f"{name or 'the head'} got {tuple(inputs.shape)} for B = {samples}; {_OTHER}"
            )
        if not output.requires_grad:
            raise ValueError(
                f"{name or 'the head'} runs without gradients and its parameters require them; freeze them with "
                "requires_grad_(False), or leave no_grad and detach out"
            )


def _refuse_slopes(seen: _Seen) -> None:
    """Refuse slopes of one logit that other samples have, and those of weights that are not what the hooks make of them."""
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
                        "the diagonal of one backward pass is that of each nn.Linear's inputs and outputs, and autograd's "
                        f"gradient of {name or 'the head'} is not their product; do not overwrite what it returns, as "
                        "nn.ReLU(inplace=True) does, nor use its parameters elsewhere, nor mix samples"
                    )


def _is_trained(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _refuse_mixed(name: str, slope: Tensor, sample: int) -> None:
    others = slope.clone()
    others[sample] = 0
    if not _close(slope, slope - others):
        raise ValueError(
            f"a logit must depend on its own sample alone, and that of sample {sample} depends on {name or 'the head'} of "
            "others; take no statistics of the batch, as BatchNorm does in training, and keep a row per sample"
        )


def _close(found: Tensor, expected: Tensor) -> bool:
    largest = max((float(t.abs().max()) for t in (found, expected) if t.numel()), default=0.0)
    return bool(((found - expected).abs() <= _ROUNDING * largest).all())


def _curved_layer(seen: _Seen, generator: torch.Generator, *, jointly: bool) -> str | None:
    """Return the first layer along whose outputs a logit has second derivatives; None if there is none."""
    for name, (_, _, output) in seen.passed.items():
        try:
            if _curved_entry(seen.logits, output, generator, jointly=jointly) is not None:
                return name or "the head"
        except RuntimeError:  # autograd has its own for operations without a second derivative
            return f"{name or 'the head'}, where {_ONCE}"
    return None


def _curved_feature(seen: _Seen, generator: torch.Generator) -> str | None:
    """Return a feature along whose pooled embedding a logit has second derivatives; None if there is none."""
    if not seen.pooled.numel():
        return None
    try:
        entry = _curved_entry(seen.logits, seen.pooled, generator, jointly=False)
    except RuntimeError:
        return f"a feature, where {_ONCE}"
    return None if entry is None else f"feature {entry // seen.pooled.shape[2]}, counted from 0"


def _require_second_derivatives(slope: Tensor) -> None:
    """Refuse an operation that is differentiable once: it ends every path, and autograd would say zero."""
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
    """Return an entry of a sample's part of `place` (S, ...) along which its logit has a second derivative, if any."""
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
