"""Measure the cost of a whole training step, from reading to updates, with the Kaggle model on generated data.

    python -m benchmarks.step [--json] [--rounds N]

For each batch size, the benchmark reports the milliseconds of an Adagrad step, and ratios to it: hybrid_diagonal with
curvature at every step (`exact`), hybrid averaged over a whole cycle of its schedule, from one turn of its basis to the next
(`default`), and hybrid_diagonal's rules with Hutchinson's estimate. `torch_dense` compares the Adagrad step with its
unavoidable part: forward, backward, and torch.optim.Adagrad on the dense part with given pooled inputs. The last ratio
compares AdaHessian from `pytorch_optimizer` with ours on that dense part. The variants take turns, each timed after an
untimed step, and a ratio is the median over rounds of the ratio within a round. Large batches get fewer rounds.
`loader_wait_share` comes from a separate loop of hybrid steps with the reader: the share of time spent waiting for a batch.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.support.printing import print_rows
from benchmarks.support.training import Steps, cycle, run_config
from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.data.loader import Batch, Loader
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.model.config import DLRMConfig
from dlrm_adahessian.model.dlrm import Head, flatten_parameters_
from dlrm_adahessian.optim.dense import AdaHessianConfig
from dlrm_adahessian.runtime.process import keep_freed_memory

_BATCHES = (128, 256, 2048, 16384)
_ROWS = 400_000
_WARM_UP = 3
_LEAST_ROUNDS, _SMALL = 3, 1024  # minimum number of rounds, and the largest batch size that gets all rounds
_LOOP = 200  # maximum number of steps


class _Training:
    """Steps of one optimizer, each on the next batch."""

    def __init__(self, name: str, batch: int, data: PreparedData, **changes: object) -> None:
        self.config = run_config(name, batch, **changes)
        self._steps = Steps(self.config, data.preprocessing.num_rows)
        self._batches = _endless(Loader(data, data.split.train, batch))

    def __call__(self) -> None:
        self._steps(next(self._batches))


def _endless(loader: Loader) -> Iterator[Batch]:
    whole = loader.batches_per_epoch - 1  # skip the last one, which may be smaller
    while True:
        for number, batch in enumerate(loader.batches(0)):
            if number < whole:
                yield batch


def _dense_parts(batch: int) -> dict[str, Callable[[], None]]:
    """Return steps of only the dense part: torch's Adagrad, AdaHessian of pytorch_optimizer, and ours."""
    from pytorch_optimizer import AdaHessian

    generator = torch.Generator().manual_seed(0)
    heads = [Head(DLRMConfig(), num_dense=13, num_features=26, generator=generator) for _ in range(3)]
    dense = torch.rand(batch, 13, generator=generator)
    pooled = torch.randn(batch, 26, 16, generator=generator).mul_(0.1)
    labels = torch.rand(batch, generator=generator).lt(0.25).float()
    adagrad = torch.optim.Adagrad(heads[0].parameters(), lr=0.01)
    package = AdaHessian(heads[1].parameters(), lr=0.01)
    parameters = flatten_parameters_(heads[2])
    ours = AdaHessianConfig().build(parameters, [p.shape for p in heads[2].parameters()])
    exact = ExactDiagonal("bf16")

    def loss_of(head: Head, leaf: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(head(dense, leaf), labels)

    def torch_dense() -> None:
        adagrad.zero_grad()
        loss_of(heads[0], pooled.detach().requires_grad_()).backward()
        adagrad.step()

    def package_adahessian() -> None:
        package.zero_grad()
        loss_of(heads[1], pooled.detach().requires_grad_()).backward(create_graph=True)
        package.step()

    def our_adahessian() -> None:
        found = exact(heads[2], dense, pooled, labels, curvature_samples=batch)
        ours.step(parameters, found.grad, found.curvature, lr_scale=1.0, samples=batch)

    return {"torch_dense": torch_dense, "package": package_adahessian, "ours": our_adahessian}


def _loader_wait_share(batch: int, data: PreparedData) -> float:
    """Return the share of a training loop's time spent waiting for the next batch."""
    loader = Loader(data, data.split.train, batch)
    step = Steps(run_config("hybrid", batch), data.preprocessing.num_rows)
    with closing(loader.batches(0)) as batches:
        step(next(batches))  # starts the reader and compiles kernels
        began, waited = time.perf_counter(), 0.0
        for _ in range(min(_LOOP, loader.batches_per_epoch - 2)):
            asked = time.perf_counter()
            coming = next(batches)
            waited += time.perf_counter() - asked
            step(coming)
        return waited / (time.perf_counter() - began)


def measure(batch: int, data: PreparedData, rounds: int) -> dict[str, float]:
    """Return the medians for one batch size."""
    trainings = {
        "adagrad": _Training("adagrad", batch, data),
        "exact": _Training("hybrid_diagonal", batch, data, curvature_every=1, curvature_fraction=1.0),
        "default": _Training("hybrid", batch, data),
        "hutchinson": _Training("hybrid_diagonal", batch, data, curvature="hutchinson", curvature_every=1),
    }
    variants: dict[str, Callable[[], None]] = {**trainings, **_dense_parts(batch)}
    repeats = dict.fromkeys(variants, 1) | {"default": cycle(trainings["default"].config)}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(_WARM_UP + rounds):
        for name, step in variants.items():
            if repeats[name] == 1:
                step()
            began = time.perf_counter()
            for _ in range(repeats[name]):
                step()
            seconds[name].append((time.perf_counter() - began) / repeats[name])
    kept = {name: times[_WARM_UP:] for name, times in seconds.items()}

    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(kept[above], kept[below], strict=True))

    return {
        "batch": batch,
        "adagrad_ms": 1e3 * statistics.median(kept["adagrad"]),
        "exact_over_adagrad": ratio("exact", "adagrad"),
        "default_over_adagrad": ratio("default", "adagrad"),
        "hutchinson_over_adagrad": ratio("hutchinson", "adagrad"),
        "adagrad_over_torch_dense": ratio("adagrad", "torch_dense"),
        "pytorch_optimizer_adahessian_over_ours": ratio("package", "ours"),
        "loader_wait_share": _loader_wait_share(batch, data),
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--rounds", type=int, default=20, help="measured rounds per batch size")
    args = parser.parse_args()
    keep_freed_memory()  # as in training
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(init_process_group())
        config = run_config("adagrad", 1, data={"cache_dir": str(folder)})
        data = open_dataset("synthetic", None, config.data, rows=_ROWS, bad_rows="strict")
        found = [
            measure(batch, data, max(_LEAST_ROUNDS, round(args.rounds * min(1, _SMALL / batch))))
            for batch in _BATCHES
        ]
    print_rows(found, as_json=args.json)


if __name__ == "__main__":
    main()
