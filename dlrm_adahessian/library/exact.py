"""Exact Hessian diagonal of any model, from the backward pass of the gradient.

The mathematics is that of curvature/exact.py. There, the program computes the loss. Here, user code computes it, without
knowing about curvature. So this module observes each nn.Linear, the outputs of the model, and calls of a loss. A check on
the first batch decides whether the model is supported (curvature/check.py).
"""

# pyright: basic
# Hooks and arguments of arbitrary models are untyped.
from collections.abc import Callable, MutableMapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, cast, get_args
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from dlrm_adahessian.curvature.layers import linear_layers
from dlrm_adahessian.curvature.parts import Kind
from dlrm_adahessian.distributed.dense_exchange import mean_over_ranks_
from dlrm_adahessian.library.attached import clear_curvature, curvature_of, factors_of
from dlrm_adahessian.library.check import is_measured, measure, refuse_compiled, refuse_inexact
from dlrm_adahessian.library.eigenbasis import Eigenbasis
from dlrm_adahessian.library.losses import LOSSES, second_derivative
from dlrm_adahessian.library.passes import Pass, Tally
from dlrm_adahessian.optim.basis import KroneckerBasis


class exact_curvature:  # noqa: N801 -- named like torch.no_grad
    """Make backward passes fill `p.curvature` in addition to `p.grad`, for weights and biases of all nn.Linear in a model.

        curvature = exact_curvature(model, every=8)
        for x, y in batches:
            optimizer.zero_grad()
            with curvature:  # or around the whole loop
                F.binary_cross_entropy_with_logits(model(x).squeeze(1), y).backward()
            optimizer.step()

    `p.curvature` is like `p.grad`: it has the same shape, belongs to the same loss, and adds up over backward passes. It is
    the diagonal of the Hessian up to rounding, not an estimate. `p.grad` does not change.

    **Steps.** A step begins with the first forward pass in which no parameter has a gradient, as after `zero_grad()` with
    `set_to_none=True`, torch's default. The curvature is then reset. Forward passes under `torch.no_grad` are ignored.

    **The model** must return outputs (B,) or (B, 1). Its trained parameters must belong to nn.Linear modules that run once
    in a forward pass, on inputs (B, in). No output may depend on other samples. Between the layers, everything is allowed
    that keeps the output piecewise linear in each single weight: ReLU, dropout, residuals, products with data, and frozen
    modules of any kind. A check on a few samples of the first batch verifies all this.

    **The loss** must consist of calls of `binary_cross_entropy_with_logits` or `mse_loss` from `torch.nn.functional`, or of
    their modules, within the block. They must get the model's outputs unchanged, or squeezed. Soft labels, `weight`,
    `pos_weight`, every `reduction`, and nonnegative constant factors have the same effect as on the gradient. Terms of the
    parameters alone, such as weight penalties, affect only the gradient. Other terms that read the outputs raise an error in
    the first step. Terms that read activations make the curvature wrong.

    **Precision.** Under `torch.autocast` with bfloat16, the curvature is float32, computed from rounded activations. float16
    raises an error, because GradScaler would unscale the gradient but not the curvature.

    **Ranks.** Pass the DistributedDataParallel module, not the module inside it. Curvature is averaged over ranks at the end
    of each backward pass, like the gradient.

    Args:
        model: a module that torch.compile has not compiled.
        kind: matrix whose diagonal `p.curvature` must be. "hessian" refuses models with another diagonal. "gauss_newton"
            computes that of the Gauss-Newton matrix and allows anything between the layers, such as GELU.
        every: steps from one curvature to the next, beginning with the first step. In other steps, `p.curvature` is None.
        fraction: share of each batch's samples to use, in (0, 1]. Curvature uses the first ones and is scaled to all.
        optimizer: an Eigenbasis, whose bases `p.curvature` of weights then uses, along with `p.curvature_factors`; None for
            coordinates. "hessian" then also refuses models that are curved in several outputs of a layer jointly.

    Raises:
        ValueError: the curvature of the model is unknown, found at the first forward pass, or the model is compiled.
        RuntimeError: raised by `backward` if it saw no loss of the outputs, or other terms that use them.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        kind: Kind = "hessian",
        every: int = 1,
        fraction: float = 1.0,
        optimizer: Eigenbasis | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, but got every={every}. Use 1 for every step.")
        if not 0 < fraction <= 1:
            raise ValueError(
                f"fraction must be above 0 and at most 1, but got fraction={fraction}. Use 1 for all samples."
            )
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, but got {kind!r}.")
        if not isinstance(optimizer, Eigenbasis | None):
            raise ValueError(
                "optimizer must be an Eigenbasis, which reads curvature in its own bases, but got "
                f"{type(optimizer).__name__}. Omit it for other optimizers."
            )
        refuse_compiled(model)
        self._optimizer = optimizer
        self._model: nn.Module = model
        self._ranks: Any = model.process_group if isinstance(model, DistributedDataParallel) else None
        self._alone: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
        self._kind: Kind = kind
        self._every, self._fraction = every, fraction
        self._steps = 0  # steps that have begun
        self._went_back = False  # whether this step had a backward pass
        self._tally: Tally | None = None
        self._running: Pass | None = None
        self._passes: WeakValueDictionary[int, Pass] = WeakValueDictionary()  # by output address
        self._hooks, self._watch = ExitStack(), ExitStack()

    def __enter__(self) -> Self:
        self._watch.enter_context(_Losses(self._passes))
        self._hook()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.close()
        self._watch.close()

    def state_dict(self) -> dict[str, int]:
        """Return the step counter, to store in a checkpoint with the optimizer's state."""
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a `state_dict`."""
        self._steps, self._went_back = state["steps"], True

    def _hook(self) -> None:
        model, layers = self._model, linear_layers(self._model).values()
        held = [model.register_forward_pre_hook(self._before, with_kwargs=True)]
        held += [layer.register_forward_hook(self._at_layer, with_kwargs=True) for layer in layers]
        held.append(model.register_forward_hook(self._after))  # last, in case the model is itself a layer
        for handle in held:
            self._hooks.callback(handle.remove)

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start a forward pass, and a step if one is due."""
        self._running = None
        if not torch.is_grad_enabled():
            return
        jointly = self._optimizer is not None
        if not is_measured(self._alone, jointly=jointly):
            self._hooks.close()  # otherwise they would be copied with the model
            measure(self._alone, args, kwargs, jointly=jointly)
            self._hook()
        refuse_inexact(self._alone, self._kind, jointly=jointly)
        parameters = self._parameters()
        if self._steps == 0 or (self._went_back and all(p.grad is None for p in parameters)):
            clear_curvature(parameters)
            self._steps, self._went_back = self._steps + 1, False
            ranks = 1 if self._ranks is None else self._ranks.size()
            self._tally = Tally(parameters[0].device, ranks)
        if (self._steps - 1) % self._every == 0 and self._tally is not None:
            self._running = Pass(
                self._tally,
                self._go_back,
                self._basis_of,
                fraction=self._fraction,
                compares=self._steps == 1,
            )

    def _at_layer(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        if self._running is None or not output.requires_grad:
            return None
        inputs = args[0] if args else kwargs["input"]
        return self._running.at_layer(cast(nn.Linear, layer), inputs, output)

    def _after(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        """Finish a forward pass."""
        running, self._running = self._running, None
        if not isinstance(output, Tensor) or not output.requires_grad:
            return None
        if running is None:
            output.register_hook(lambda _: self._note_backward())
            return None
        if output.dtype == torch.float16:
            raise ValueError(
                "Curvature of float16 outputs would keep the scale of a GradScaler. Use bfloat16."
            )
        output = running.at_output(output)
        self._passes[output.data_ptr()] = running
        return output

    def _note_backward(self) -> None:
        self._went_back = True

    def _go_back(self) -> None:
        """Start the backward pass of one forward pass."""
        self._went_back = True
        ranks, tally = self._ranks, self._tally
        if ranks is not None and tally is not None:
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._average_(tally, ranks))

    def _average_(self, tally: Tally, ranks: Any) -> None:
        """Average the curvature of the step over ranks. Averages of earlier backward passes do not change."""
        parameters = self._parameters()
        attached = [*map(curvature_of, parameters), *map(factors_of, parameters)]
        found = [tensor for tensor in attached if tensor is not None]
        mean_over_ranks_([*found, tally.moments], ranks)
        tally.count_()

    def _basis_of(self, parameter: nn.Parameter) -> KroneckerBasis | None:
        return None if self._optimizer is None else self._optimizer.basis_of(parameter)

    def _parameters(self) -> list[nn.Parameter]:
        layers = linear_layers(self._model).values()
        return [p for layer in layers for p in layer.parameters(recurse=False) if p.requires_grad]


class _Losses(TorchFunctionMode):
    """Observe calls of losses on the outputs of forward passes."""

    def __init__(self, passes: MutableMapping[int, Pass]) -> None:
        super().__init__()
        self._passes = passes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        of = self._passes.get(args[0].data_ptr()) if func in LOSSES else None
        if of is None:
            return func(*args, **options)
        output, target = args
        result = func(of.through_loss(output), target, **options)
        if result.requires_grad:
            second = second_derivative(func, output, target, options)
            result.register_hook(lambda factor: of.add_loss(second, factor))
        return result
