"""The exact Hessian diagonal of anyone's model, in the backward pass that makes the gradient.

The mathematics is that of curvature/exact.py. There the program computes the loss; here the user does, in code that knows
nothing of curvature. Three places are watched: each nn.Linear, the outputs of the model, and calls of a loss. Whether
the model allows it is measured on its first batch (curvature/check.py).
"""

# pyright: basic
# Hooks, and what is given to any model, have no types.
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


class exact_curvature:  # noqa: N801 -- it reads as torch.no_grad does
    """Let backward passes fill `p.curvature` beside `p.grad`, for the weights and biases of all nn.Linear of a model.

        curvature = exact_curvature(model, every=8)
        for x, y in batches:
            optimizer.zero_grad()
            with curvature:  # or around the whole loop
                F.binary_cross_entropy_with_logits(model(x).squeeze(1), y).backward()
            optimizer.step()

    `p.curvature` is like `p.grad`: in its shape, of the same loss, added up over backward passes. It is the diagonal of the
    Hessian, to rounding, not an estimate. `p.grad` stays as it would be.

    **Steps.** A step begins with the first forward pass in which no parameter has a gradient, as after `zero_grad()` with
    `set_to_none=True`, torch's default. There the curvature starts anew. Passes under `torch.no_grad` count for nothing.

    **The model** returns outputs (B,) or (B, 1). Its trained parameters belong to nn.Linear modules that run once in a
    forward pass, on inputs (B, in). No output depends on other samples. Between the layers anything may happen that leaves
    the output piecewise linear in each single weight: ReLU, dropout, residuals, products with data, frozen modules of any
    kind. All this is measured on a few samples of the first batch.

    **The loss** is made of calls of `binary_cross_entropy_with_logits` or `mse_loss` of `torch.nn.functional`, or of
    their modules, within the block, on the model's outputs as they are, squeezed at most. Soft labels, `weight`,
    `pos_weight`, every `reduction` and constant factors that are not negative are as in the gradient. Terms of the
    parameters alone, such as weight penalties, are in the gradient only. Other terms that read the outputs are refused in
    the first step. Terms that read activations make the curvature wrong.

    **Precision.** Under `torch.autocast` with bfloat16 the curvature is float32, of the rounded activations. float16 is
    refused: its GradScaler would scale the gradient back and leave the curvature.

    **Ranks.** Give it the DistributedDataParallel, not the module in it. Curvature is averaged over ranks at the end
    of each backward pass, as the gradient is.

    Args:
        model: not compiled by torch.compile.
        kind: what `p.curvature` must be the diagonal of. "hessian" refuses models for which it is not. "gauss_newton"
            takes the Gauss-Newton matrix with anything between the layers, such as GELU.
        every: steps from one with curvature to the next, the first one included; on others `p.curvature` is None.
        fraction: of the samples of each forward pass, in (0, 1]. Curvature is of the first ones alone, in the scale of all.
        optimizer: an Eigenbasis, in whose bases `p.curvature` of weights then is, with `p.curvature_factors` beside it; None
            for coordinates. "hessian" then refuses models that are curved along several outputs of a layer at once, too.

    Raises:
        ValueError: the model is none of which the curvature is known, at the first forward pass; or it is compiled.
        RuntimeError: from `backward`: no loss of the outputs was seen, or more than losses.
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
            raise ValueError(f"curvature comes every 1 step or more, got every={every}; use 1 for each step")
        if not 0 < fraction <= 1:
            raise ValueError(
                f"a fraction of the samples is above 0 and at most 1, got fraction={fraction}; use 1 for all samples"
            )
        if kind not in get_args(Kind):
            raise ValueError(f"kind is one of {', '.join(get_args(Kind))}, got {kind!r}")
        if not isinstance(optimizer, Eigenbasis | None):
            raise ValueError(
                "optimizer is for Eigenbasis, which reads curvature in bases of its own, got "
                f"{type(optimizer).__name__}; leave it out for others"
            )
        refuse_compiled(model)
        self._optimizer = optimizer
        self._model: nn.Module = model
        self._ranks: Any = model.process_group if isinstance(model, DistributedDataParallel) else None
        self._alone: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
        self._kind: Kind = kind
        self._every, self._fraction = every, fraction
        self._steps = 0  # that have begun
        self._went_back = False  # in this step
        self._tally: Tally | None = None
        self._running: Pass | None = None
        self._passes: WeakValueDictionary[int, Pass] = WeakValueDictionary()  # by the place of their outputs
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
        """Return where in the count of steps it is, for a checkpoint beside that of the optimizer."""
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a `state_dict`."""
        self._steps, self._went_back = state["steps"], True

    def _hook(self) -> None:
        model, layers = self._model, linear_layers(self._model).values()
        held = [model.register_forward_pre_hook(self._before, with_kwargs=True)]
        held += [layer.register_forward_hook(self._at_layer, with_kwargs=True) for layer in layers]
        held.append(model.register_forward_hook(self._after))  # last, where the model is a layer itself
        for handle in held:
            self._hooks.callback(handle.remove)

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin a forward pass, and a step where one is due."""
        self._running = None
        if not torch.is_grad_enabled():
            return
        jointly = self._optimizer is not None
        if not is_measured(self._alone, jointly=jointly):
            self._hooks.close()  # or they would be copied with the model
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
        """End a forward pass."""
        running, self._running = self._running, None
        if not isinstance(output, Tensor) or not output.requires_grad:
            return None
        if running is None:
            output.register_hook(lambda _: self._note_backward())
            return None
        if output.dtype == torch.float16:
            raise ValueError(
                "curvature of float16 outputs would keep the scale of a GradScaler; use bfloat16"
            )
        output = running.at_output(output)
        self._passes[output.data_ptr()] = running
        return output

    def _note_backward(self) -> None:
        self._went_back = True

    def _go_back(self) -> None:
        """Begin the backward pass of one forward pass."""
        self._went_back = True
        ranks, tally = self._ranks, self._tally
        if ranks is not None and tally is not None:
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._average_(tally, ranks))

    def _average_(self, tally: Tally, ranks: Any) -> None:
        """Take the mean over ranks of all the curvature of the step; what was a mean before stays one."""
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
    """Watches calls of losses on the outputs of forward passes."""

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
