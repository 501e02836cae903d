"""Compare exact diagonals of other libraries with ours on Criteo Kaggle's MLPs and heads, in relative error and time.

    pip install -e '.[peers]'
    python -m benchmarks.peers [--json]

Errors are measured on small models in float64, against torch.autograd.functional.hessian. Times are for float32 on one
thread. The libraries take turns within one run, and each is timed on the second of two calls, in CPU time, which is less
sensitive to other processes, and in elapsed time. `over_ours` is the median over rounds of the ratio of CPU times within a
round. `extra_over_ours` is the same without the time of the gradient, which all of them compute.

A linear operator needs a product with each unit vector for its diagonal. Only a few products are timed, in fewer rounds, and
the total time is extrapolated in proportion.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import backpack.extensions
import curvlinops
import torch
from backpack import backpack as extended
from backpack import extend
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from benchmarks.support.printing import print_rows
from dlrm_adahessian import exact_curvature
from dlrm_adahessian.curvature.base import trained
from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.model.config import DCNv2Config, DeepFMConfig, DLRMConfig, ModelConfig
from dlrm_adahessian.model.layers import mlp
from dlrm_adahessian.model.registry import new_head
from dlrm_adahessian.runtime.process import keep_freed_memory

_BATCHES = (128, 2048)
_WARM_UP = 2
_COLUMNS = 4  # unit vectors per product
_PRODUCT_ROUNDS = 5  # products take long, so their relative noise is small
_REFUSALS = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""Errors that the libraries raised, and similar ones."""


class OneInput(nn.Module):
    """A head with the interface of other libraries: (B, K + F * D) to (B, 1)."""

    def __init__(self, head: nn.Module, num_dense: int, num_features: int) -> None:
        super().__init__()
        self.head, self._num_dense, self._num_features = head, num_dense, num_features

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the dense (B, K) and pooled (B, F, D) parts of an input."""
        return x[:, : self._num_dense], x[:, self._num_dense :].unflatten(1, (self._num_features, -1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, K + F * D) to (B, 1)."""
        return self.head(*self.parts(x)).unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model, its inputs (B, in), and labels (B, 1)."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def loss(self) -> Tensor:
        """Return the mean loss of the batch."""
        return nn.functional.binary_cross_entropy_with_logits(self.model(self.x), self.y)


@dataclass(frozen=True, kw_only=True)
class Diagonal:
    """A function that computes a diagonal (P,) in parts of equal size."""

    part: Callable[[int], Tensor]
    parts: int = 1


def _flat(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors if tensor is not None])


def gradient_alone(problem: Problem) -> Diagonal:
    """Return the gradient without a diagonal, for its time."""

    def part(_: int) -> Tensor:
        problem.model.zero_grad()
        problem.loss().backward()
        return _flat([p.grad for p in problem.model.parameters()])

    return Diagonal(part=part)


def ours(problem: Problem) -> Diagonal:
    """Return `ExactDiagonal` for a head, or `exact_curvature` for other models."""
    model, y = problem.model, problem.y
    if isinstance(model, OneInput):
        # DCN V2's diagonal is the Hessian's at the weights, which are compared here, but not at the embeddings.
        estimator, head = ExactDiagonal(pooled="none", kind="gauss_newton"), model.head
        dense, pooled = model.parts(problem.x)

        def of_head(_: int) -> Tensor:
            return estimator(head, dense, pooled, y.squeeze(1), curvature_samples=len(y)).curvature

        return Diagonal(part=of_head)
    curvature, parameters = exact_curvature(model), trained(model)

    def part(_: int) -> Tensor:
        model.zero_grad()
        with curvature:
            problem.loss().backward()
        return _flat([p.curvature for p in parameters])

    return Diagonal(part=part)


def by_backpack(name: str) -> Callable[[Problem], Diagonal]:
    """Return a function for the diagonal of a BackPACK extension. Its converter handles models other than nn.Sequential."""

    def make(problem: Problem) -> Diagonal:
        model = extend(problem.model, use_converter=not isinstance(problem.model, nn.Sequential))
        loss, extension = extend(nn.BCEWithLogitsLoss()), getattr(backpack.extensions, name)()

        def part(_: int) -> Tensor:
            model.zero_grad()
            with extended(extension):
                loss(model(problem.x), problem.y).backward()
            return _flat([getattr(p, extension.savefield) for p in model.parameters()])

        return Diagonal(part=part)

    return make


def by_products(name: str) -> Callable[[Problem], Diagonal]:
    """Return a function for the diagonal of a curvlinops linear operator."""

    def make(problem: Problem) -> Diagonal:
        operator = getattr(curvlinops, name)(
            problem.model,
            nn.BCEWithLogitsLoss(),
            list(problem.model.parameters()),
            [(problem.x, problem.y)],
            check_deterministic=False,
        )
        size = operator.shape[0]

        def part(index: int) -> Tensor:
            entries = torch.arange(index * _COLUMNS, min(size, (index + 1) * _COLUMNS))
            units = problem.x.new_zeros(size, len(entries))
            units[entries, torch.arange(len(entries))] = 1
            return (operator @ units)[entries].diagonal()

        return Diagonal(part=part, parts=-(-size // _COLUMNS))

    return make


LIBRARIES: dict[str, Callable[[Problem], Diagonal]] = {
    "gradient alone": gradient_alone,
    "dlrm_adahessian": ours,
    "backpack DiagGGNExact": by_backpack("DiagGGNExact"),
    "backpack DiagHessian": by_backpack("DiagHessian"),
    "curvlinops GGN": by_products("GGNLinearOperator"),
    "curvlinops Hessian": by_products("HessianLinearOperator"),
}


def _mlp(*widths: int) -> Callable[[int, torch.dtype], Problem]:
    def make(batch: int, dtype: torch.dtype) -> Problem:
        generator = torch.Generator().manual_seed(0)
        model = mlp(widths, "relu", generator=generator, dtype=dtype)
        return _with_batch(model, widths[0], batch, generator, dtype)

    return make


def _head(cfg: ModelConfig, dense: int, features: int) -> Callable[[int, torch.dtype], Problem]:
    def make(batch: int, dtype: torch.dtype) -> Problem:
        generator = torch.Generator().manual_seed(0)
        head = new_head(cfg, num_dense=dense, num_features=features, generator=generator, dtype=dtype)
        inputs = dense + features * cfg.embedding_dim
        return _with_batch(OneInput(head, dense, features), inputs, batch, generator, dtype)

    return make


def _with_batch(
    model: nn.Module, inputs: int, batch: int, generator: torch.Generator, dtype: torch.dtype
) -> Problem:
    x = torch.randn(batch, inputs, generator=generator, dtype=dtype)
    y = torch.rand(batch, 1, generator=generator).lt(0.25).to(dtype)
    return Problem(model=model, x=x, y=y)


MODELS = {
    "MLP 13-512-256-64-16-1": (_mlp(6, 16, 12, 8, 6, 1), _mlp(13, 512, 256, 64, 16, 1)),
    "MLP 367-512-256-1": (_mlp(5, 16, 8, 1), _mlp(367, 512, 256, 1)),
    "DLRM": (_head(DLRMConfig(embedding_dim=2, bottom=(4,), top=(5,)), 3, 4), _head(DLRMConfig(), 13, 26)),
    "DeepFM": (_head(DeepFMConfig(embedding_dim=2, deep=(5, 4)), 3, 4), _head(DeepFMConfig(), 13, 26)),
    "DCN V2": (
        _head(DCNv2Config(embedding_dim=2, crosses=2, deep=(5,)), 2, 2),
        _head(DCNv2Config(), 13, 26),
    ),
}
"""A small model of each kind, and that of Criteo Kaggle."""


def largest_error(problem: Problem, library: str) -> float | str:
    """Return the largest relative error over the entries of a library, or the reason why it has no diagonal."""
    expected = _diagonal_by_autograd(problem)
    try:
        diagonal = LIBRARIES[library](deepcopy(problem))
        found = torch.cat([diagonal.part(index) for index in range(diagonal.parts)])
    except _REFUSALS as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    # Entries of inactive units are 0 in both.
    return float(
        ((found - expected).abs() / expected.abs().clamp_min(torch.finfo(expected.dtype).tiny)).max()
    )


def _diagonal_by_autograd(problem: Problem) -> Tensor:
    named = {name: p.detach() for name, p in problem.model.named_parameters()}
    sizes = [p.numel() for p in named.values()]

    def loss(flat: Tensor) -> Tensor:
        pieces = zip(named.items(), flat.split(sizes), strict=True)
        values = {name: piece.view_as(p) for (name, p), piece in pieces}
        logits = functional_call(problem.model, values, (problem.x,))
        return nn.functional.binary_cross_entropy_with_logits(logits, problem.y)

    return hessian(loss, _flat(list(named.values()))).diagonal()


def times(problem: Problem, libraries: Sequence[str], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return CPU and elapsed seconds of the whole diagonal for each library and round."""
    diagonals = {library: LIBRARIES[library](deepcopy(problem)) for library in libraries}
    seconds: dict[str, list[tuple[float, float]]] = {library: [] for library in libraries}
    for turn in range(_WARM_UP + rounds):
        for library, diagonal in diagonals.items():
            if diagonal.parts > 1 and turn >= _WARM_UP + _PRODUCT_ROUNDS:
                continue
            diagonal.part(0)  # so that caches and allocator are not in the state of the previous library
            computed, began = time.thread_time(), time.perf_counter()
            diagonal.part(0)
            elapsed, computed = time.perf_counter() - began, time.thread_time() - computed
            seconds[library].append((diagonal.parts * computed, diagonal.parts * elapsed))
    return {library: taken[_WARM_UP:] for library, taken in seconds.items()}


def measure(name: str, rounds: int) -> list[dict[str, object]]:
    """Return a row for each library and batch size of a model, with times in milliseconds; None without a diagonal."""
    small, kaggle = MODELS[name]
    errors = {library: largest_error(small(12, torch.float64), library) for library in LIBRARIES}
    able = [library for library, error in errors.items() if isinstance(error, float)]
    rows: list[dict[str, object]] = [
        {"model": name, "library": library, "not_supported": error}
        for library, error in errors.items()
        if library not in able
    ]
    for batch in _BATCHES:
        taken = times(kaggle(batch, torch.float32), able, rounds)
        gradient, mine = taken["gradient alone"], taken["dlrm_adahessian"]
        for library, seconds in taken.items():
            computed = [of_thread for of_thread, _ in seconds]
            turns = list(
                zip(computed, gradient, mine, strict=False)
            )  # products take part only in the first rounds
            rows.append(
                {
                    "model": name,
                    "batch": batch,
                    "library": library,
                    "error": None if library == "gradient alone" else errors[library],
                    "cpu_ms": 1e3 * statistics.median(computed),
                    "wall_ms": 1e3 * statistics.median(elapsed for _, elapsed in seconds),
                    "over_ours": statistics.median(t / o for t, _, (o, _) in turns),
                    "extra_over_ours": statistics.median((t - g) / (o - g) for t, (g, _), (o, _) in turns),
                }
            )
    return rows


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--rounds", type=int, default=20, help="measured rounds per batch size")
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="models to compare"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as in training
    print_rows([row for name in args.models for row in measure(name, args.rounds)], as_json=args.json)


if __name__ == "__main__":
    main()
