"""Hutchinson's estimate of the Hessian diagonal of anyone's model, by a second backward pass through the first.

E[z * (H z)] = diag(H) for z of independent signs; curvature/hutchinson.py has the sources. For models that `exact_curvature`
refuses: any that can be differentiated twice.
"""

# pyright: basic
# Hooks, and what any model returns, have no types.
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dlrm_adahessian.curvature.hutchinson import random_signs
from dlrm_adahessian.library.attached import add_curvature_, clear_curvature
from dlrm_adahessian.library.check import refuse_compiled


class hutchinson_curvature:  # noqa: N801 -- it reads as torch.no_grad does
    """Fill `p.curvature` at the end of a block in which `backward(create_graph=True)` ran, for all parameters of a model.

        curvature = hutchinson_curvature(model)
        for step, (x, y) in enumerate(batches):
            optimizer.zero_grad()
            if step % 8 == 0:
                with curvature:
                    loss_fn(model(x), y).backward(create_graph=True)
            else:
                loss_fn(model(x), y).backward()
            optimizer.step()

    `p.curvature` is a mean of `draws` unbiased estimates, whose noise comes from what is beside the diagonal. It
    starts anew where `p.grad` is None when the block begins, and adds up where it is not. `p.curvature_samples` counts the
    rows of what the model returned within the block, as a mean loss over them does.

    Args:
        model: any nn.Module, not compiled, on one rank. What it returns, or the first of it, has a row per sample.
        draws: of an estimate, each a backward pass more.
        generator: of the signs, on the parameters' device, for a checkpoint to keep; None makes one with seed 0.

    Raises:
        ValueError: the model is compiled, or a DistributedDataParallel, which cannot be differentiated twice.
        RuntimeError: at the end of the block: gradients carry no graph, or the model did not run.
    """

    def __init__(self, model: nn.Module, *, draws: int = 1, generator: torch.Generator | None = None) -> None:
        if draws < 1:
            raise ValueError(f"an estimate needs 1 draw or more, got draws={draws}")
        if isinstance(model, DistributedDataParallel):
            raise ValueError(
                "hutchinson_curvature differentiates twice, which DistributedDataParallel does not allow; use "
                "exact_curvature, or one rank"
            )
        refuse_compiled(model)
        self._model, self._draws, self._generator = model, draws, generator
        self._rows, self._counted = 0, 0
        self._hook: Any = None

    def __enter__(self) -> Self:
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        if all(p.grad is None for p in parameters):
            clear_curvature(parameters)
            self._rows = 0
        self._counted = self._rows
        self._hook = self._model.register_forward_hook(self._count)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hook.remove()
        if error is None:
            self._fill_()

    def _count(self, model: nn.Module, inputs: Any, output: Any) -> None:
        first = output if isinstance(output, Tensor) else next(iter(output))
        self._rows += len(first) if first.requires_grad else 0

    def _fill_(self) -> None:
        grads = {p: p.grad for p in self._model.parameters() if p.grad is not None}
        slopes = {p: grad for p, grad in grads.items() if grad.requires_grad}
        if self._rows == self._counted or not slopes:
            raise RuntimeError(
                "hutchinson_curvature needs a forward pass of the model within its block, and gradients that carry a "
                "graph; call backward(create_graph=True) there"
            )
        if self._generator is None:
            self._generator = torch.Generator(next(iter(slopes)).device).manual_seed(0)
        samples = torch.tensor(float(self._rows))
        for p, curvature in zip(slopes, self._estimate(slopes, self._generator), strict=True):
            add_curvature_(p, curvature, samples)
            p.grad = slopes[p].detach()
        for p in grads.keys() - slopes.keys():  # of a constant gradient
            add_curvature_(p, torch.zeros_like(p), samples)

    def _estimate(self, slopes: dict[nn.Parameter, Tensor], generator: torch.Generator) -> list[Tensor]:
        """Return the mean of z * (H z) at each parameter, from gradients that carry their graph."""
        totals = [torch.zeros_like(p) for p in slopes]
        for draw in range(self._draws):
            signs = [random_signs(p, p.shape, generator) for p in slopes]
            products = torch.autograd.grad(
                list(slopes.values()),
                list(slopes),
                signs,
                retain_graph=draw + 1 < self._draws,
                materialize_grads=True,
            )
            for total, sign, product in zip(totals, signs, products, strict=True):
                total.addcmul_(sign, product, value=1 / self._draws)
        return totals
