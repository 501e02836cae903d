"""Measure speed and correctness on one GPU, with two shapes of DLRM.

The first shape is Criteo Kaggle: 33.76 million rows of width 16, its MLPs, and its frequencies of ids. Steps are also timed
with MLPerf's shape: rows of width 128, its MLPs, tables cut to a million rows to fit several rules, and power-law ids.

    python -m benchmarks.gpu [--json] [--out FILE] [--rounds N]

Times are medians over rounds. Within a round, the variants take turns with a block of steps each, so that a slow moment
affects all of them. A step includes lookup, derivatives, and updates of the dense part and the rows. A second stream moves
its batches from pinned memory. `checked` steps also wait for the predictions and for the check that all derivatives are
finite, as in training. Limits of the device are measured first, with a large copy and large matrix products.
"""

import argparse
import itertools
import json
import math
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.support.kaggle import draw_ids, table_sizes, token_distributions
from dlrm_adahessian.config import composed
from dlrm_adahessian.curvature.base import Derivatives, Estimator, NoCurvature, all_finite, gradient
from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.curvature.gpu import Graphed
from dlrm_adahessian.curvature.hutchinson import Hutchinson
from dlrm_adahessian.embeddings.local_tables import RowTables
from dlrm_adahessian.embeddings.planning.what_if import table_sizes as published_sizes
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.kernels.compiled import triton_available
from dlrm_adahessian.kernels.row_sums import sum_hits_torch
from dlrm_adahessian.model.config import DLRMConfig
from dlrm_adahessian.model.dlrm import Head, flatten_parameters_
from dlrm_adahessian.optim.base import RowRule
from dlrm_adahessian.optim.columns import ColumnsConfig
from dlrm_adahessian.optim.dense import AdagradConfig, DenseConfig, DenseHessianAdagradConfig
from dlrm_adahessian.optim.rows import HessianAdagradConfig, RowAdagradConfig, RowAdaHessianConfig, RowConfig
from dlrm_adahessian.runtime.device import Precision, matrix_products

BATCHES = (2048, 16_384, 65_536)
FEATURES, WIDTH, DENSE = 26, 16, 13
_MOST_ROWS = 1_000_000  # per table with MLPerf's shape
_BLOCK = 12  # steps timed together; a multiple of 4, so that each block has its share of curvature
_CYCLE = 64  # steps of hybrid from one turn of its basis to the next
_POOL = 4  # number of different batches
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32")


def milliseconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Return the median time of one call on the device."""
    for _ in range(3):
        run()
    marks = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)
    ]
    for began, ended in marks:
        began.record()
        run()
        ended.record()
    torch.cuda.synchronize()
    return statistics.median(began.elapsed_time(ended) for began, ended in marks)


def captured(run: Callable[[], object]) -> Callable[[], None]:
    """Return the call as a CUDA graph, so that the time on the device excludes Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model, its tables, and a function that draws ids for B samples, (26, B) int64."""

    model: DLRMConfig
    sizes: Sequence[int]
    draw: Callable[[int, np.random.Generator], npt.NDArray[np.int64]]


def kaggle() -> Shape:
    """Return the shape of Criteo Kaggle."""
    distributions = token_distributions()
    return Shape(
        model=DLRMConfig(),
        sizes=table_sizes(),
        draw=lambda batch, rng: draw_ids(distributions, batch, rng),
    )


def mlperf() -> Shape:
    """Return the shape of MLPerf's DLRM on Criteo 1TB, with smaller tables."""
    published = published_sizes("criteo_1tb")
    sizes = [min(rows, _MOST_ROWS) for rows in published.rows]
    return Shape(
        model=published.model,
        sizes=sizes,
        draw=lambda batch, rng: (rng.random((FEATURES, batch)) ** 4 * np.array(sizes)[:, None]).astype(
            np.int64
        ),
    )


class Feed:
    """Batches in pinned memory, moved to the device one step ahead by a second stream."""

    def __init__(self, batch: int, shape: Shape) -> None:
        rng = np.random.default_rng(batch)
        generator = torch.Generator().manual_seed(batch)
        self.host = [
            [
                torch.from_numpy(shape.draw(batch, rng).reshape(-1)).pin_memory(),
                torch.rand(batch, DENSE, generator=generator).pin_memory(),
                torch.rand(batch, generator=generator).lt(0.25).float().pin_memory(),
            ]
            for _ in range(_POOL)
        ]
        self.offsets = torch.arange(FEATURES * batch + 1, device="cuda")
        self._turn = itertools.cycle(self.host)
        self._stream = torch.cuda.Stream()
        self._ahead = self._move()

    def _move(self) -> tuple[list[Tensor], torch.cuda.Event]:
        with torch.cuda.stream(self._stream):
            moved = [tensor.to("cuda", non_blocking=True) for tensor in next(self._turn)]
            return moved, self._stream.record_event()

    def next(self) -> list[Tensor]:
        """Return ids (26 * B,), dense (B, 13), and labels (B,) on the device."""
        (moved, ready), self._ahead = self._ahead, self._move()
        stream = torch.cuda.current_stream()
        stream.wait_event(ready)
        for tensor in moved:
            tensor.record_stream(stream)
        return moved


class Tables:
    """The embedding tables of each rule, created once because filling 2 GB is slow."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._made: dict[str, RowTables] = {}

    def of(self, cfg: RowConfig) -> RowTables:
        """Return the tables of a rule."""
        if cfg.name not in self._made:
            tables = RowTables(
                self.shape.sizes,
                self.shape.model.embedding_dim,
                list(range(FEATURES)),
                rule=cfg.build(),
                device=torch.device("cuda"),
                dtype=torch.float32,
            )
            tables.weight.uniform_(-0.01, 0.01)
            self._made[cfg.name] = tables
        return self._made[cfg.name]


class Trainer:
    """Training steps of one optimizer."""

    def __init__(
        self,
        feed: Feed,
        tables: RowTables,
        estimator: Estimator | None,
        dense: DenseConfig,
        model: DLRMConfig,
        *,
        every: int | None,
        fraction: float = 1.0,
        columns: ColumnsConfig | None = None,
        checked: bool = False,
    ) -> None:
        """Build the dense part; without `estimator`, with the exact diagonal in the optimizer's basis."""
        self.feed, self.tables = feed, tables
        self.head = new_head(model)
        self.parameters = flatten_parameters_(self.head)
        shapes = [p.shape for p in self.head.parameters()]
        self.optimizer = dense.build(self.parameters, shapes)
        self.estimator = estimator or Graphed(ExactDiagonal("bf16", "mean", self.optimizer.basis))
        self.columns = columns and columns.build(self.parameters, FEATURES, model.embedding_dim)
        self._every, self._fraction, self._checked, self._steps = every, fraction, checked, 0

    def step(self) -> None:
        """Take one step."""
        ids, dense, labels = self.feed.next()
        samples = len(labels)
        due = self._every is not None and self._steps % self._every == 0
        self._steps += 1
        width = self.tables.weight.shape[1]
        pooled = self.tables(ids, self.feed.offsets).view(samples, FEATURES, width)
        found = self.estimator(
            self.head,
            dense,
            pooled,
            labels,
            curvature_samples=math.ceil(self._fraction * samples) if due else 0,
        )
        if self._checked:
            if not all_finite(found):
                raise RuntimeError("a derivative of this benchmark is not finite")
            found.logits.cpu()
        self.optimizer.step(self.parameters, found.grad, found.curvature, lr_scale=1.0, samples=samples)
        if found.factors is not None:
            self.optimizer.observe_(found.factors)
        grad, curvature = found.pooled_grad, found.pooled_curvature
        if self.columns is not None:
            self.columns.observe_(self.columns.factors(grad))
            grad, curvature = self.columns.turned(grad, curvature)
        self.tables.apply_(
            grad.reshape(-1, width),
            None if curvature is None else curvature.view(-1, curvature.shape[2]),
            sampled=None,
            lr_scale=1.0,
            samples=samples,
        )


def new_head(model: DLRMConfig, dtype: torch.dtype = torch.float32) -> Head:
    """Return the dense part of a model on the device."""
    generator = torch.Generator().manual_seed(0)
    head = Head(model, num_dense=DENSE, num_features=FEATURES, generator=generator, dtype=dtype)
    return head.cuda()


def full_steps(batch: int, tables: Tables, rounds: int) -> dict[str, Any]:
    """Time full steps of all optimizers."""
    feed = Feed(batch, tables.shape)
    model = tables.shape.model
    adagrad, hessian = (
        tables.of(RowAdagradConfig(lr=1e-4)),
        tables.of(HessianAdagradConfig(lr=1e-4, rowwise=True)),
    )
    plain, second = AdagradConfig(lr=1e-5), DenseHessianAdagradConfig(lr=1e-5, beta1=0.9)
    cuda = torch.device("cuda")

    shipped = composed({}, "hybrid")

    def hybrid(*, checked: bool = False) -> Trainer:
        return Trainer(
            feed, hessian, None, shipped.optim.dense, model, every=shipped.curvature_every,
            fraction=shipped.curvature_fraction, columns=shipped.optim.columns, checked=checked,
        )  # fmt: skip

    def exact() -> Estimator:
        return Graphed(ExactDiagonal("bf16", "mean"))

    def trainers() -> dict[str, Trainer]:
        return {
            "adagrad": Trainer(feed, adagrad, Graphed(NoCurvature()), plain, model, every=None),
            "hybrid": hybrid(),
            "diagonal": Trainer(feed, hessian, exact(), second, model, every=1),
            "diagonal_every_4": Trainer(feed, hessian, exact(), second, model, every=4),
            "hutchinson": Trainer(feed, hessian, Hutchinson(1, 0, cuda, "mean"), second, model, every=1),
            "hutchinson_every_4": Trainer(
                feed, hessian, Hutchinson(1, 0, cuda, "mean"), second, model, every=4
            ),
            "adagrad_eager": Trainer(feed, adagrad, NoCurvature(), plain, model, every=None),
            "diagonal_eager": Trainer(feed, hessian, ExactDiagonal("bf16", "mean"), second, model, every=1),
            "adagrad_checked": Trainer(
                feed, adagrad, Graphed(NoCurvature()), plain, model, every=None, checked=True
            ),
            "hybrid_checked": hybrid(checked=True),
            "diagonal_checked": Trainer(feed, hessian, exact(), second, model, every=1, checked=True),
        }

    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        with matrix_products(precision):
            times = _take_turns({name: t.step for name, t in trainers().items()}, rounds)
        found[precision] = {
            name: {
                "step_ms": ms,
                "samples_per_second": 1e3 * batch / ms,
                "over_adagrad": ms / times["adagrad_checked" if name.endswith("_checked") else "adagrad"],
            }
            for name, ms in times.items()
        }
    return found


def _take_turns(variants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds per step over rounds."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, step in variants.items():
            block = _CYCLE if name.startswith("hybrid") else _BLOCK
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            began.record()
            for _ in range(block):
                step()
            ended.record()
            ended.synchronize()
            if turn:  # the first round compiles and captures
                times[name].append(began.elapsed_time(ended) / block)
    return {name: statistics.median(values) for name, values in times.items()}


def dense_parts(batch: int, limits: dict[str, float]) -> dict[str, Any]:
    """Time derivatives and dense optimizers separately."""
    head = new_head(DLRMConfig())
    parameters = flatten_parameters_(head)
    shapes = [p.shape for p in head.parameters()]
    dense, labels = torch.rand(batch, DENSE, device="cuda"), torch.rand(batch, device="cuda").lt(0.25).float()
    pooled = torch.randn(batch, FEATURES, WIDTH, device="cuda").mul_(0.1)
    exact, hutchinson = ExactDiagonal("bf16"), Hutchinson(1, 0, torch.device("cuda"))
    calls: dict[str, Callable[[], Derivatives]] = {
        "gradient": lambda: gradient(head, dense, pooled, labels),
        "exact": lambda: exact(head, dense, pooled, labels, curvature_samples=batch),
        "hutchinson": lambda: hutchinson(head, dense, pooled, labels, curvature_samples=batch),
    }
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        with matrix_products(precision):
            part: dict[str, float] = {f"{name}_eager_ms": milliseconds(call) for name, call in calls.items()}
            for name in ("gradient", "exact"):
                ms = milliseconds(captured(calls[name]))
                part[f"{name}_graph_ms"] = ms
                part[f"{name}_matrix_share"] = (
                    1e3 * flops(head, batch, name) / ms / limits[f"{precision}_flops"]
                )
            part["exact_over_gradient"] = part["exact_graph_ms"] / part["gradient_graph_ms"]
        found[precision] = part
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        ms = milliseconds(captured(calls["gradient"]))
    share = 1e3 * flops(head, batch, "gradient") / ms / limits["bf16_flops"]
    found["bf16"] = {"gradient_graph_ms": ms, "gradient_matrix_share": share}
    grad = torch.randn_like(parameters).mul_(1e-3)
    for cfg in (AdagradConfig(), DenseHessianAdagradConfig(beta1=0.9)):
        optimizer = cfg.build(parameters.clone(), shapes)
        found[f"{cfg.name}_update_ms"] = milliseconds(
            lambda o=optimizer: o.step(parameters, grad, grad, lr_scale=1e-6, samples=batch)
        )
    return found


def flops(head: nn.Module, batch: int, name: str) -> float:
    """Return the operations of all matrix products: forward, two for backward, and one more per layer for `exact`."""
    layers = [m for m in head.modules() if isinstance(m, nn.Linear)]
    weights = sum(layer.weight.numel() for layer in layers)
    inputs = layers[0].weight.numel()  # there is no derivative with respect to the dense inputs
    interaction = (FEATURES + 1) ** 2 * WIDTH
    per_sample = 3 * weights - inputs + 2 * interaction + (weights if name == "exact" else 0)
    return 2.0 * batch * per_sample


def row_parts(batch: int, tables: Tables, limits: dict[str, float]) -> dict[str, Any]:
    """Time the lookup and the row update, both fused and with torch operations."""
    feed = Feed(batch, tables.shape)
    ids, *_ = feed.next()
    lookups = len(ids)
    grad = torch.randn(lookups, WIDTH, device="cuda").div_(batch)
    curvature = grad.square().mul_(batch)
    first = tables.of(RowAdagradConfig(lr=1e-4))
    first(ids, feed.offsets)
    keys = (ids.view(FEATURES, batch) + first._feature_starts.unsqueeze(1)).view(-1)
    touched = len(keys.unique())
    found: dict[str, Any] = {
        "lookups": lookups,
        "touched_rows": touched,
        "lookup_ms": milliseconds(captured(lambda: first(ids, feed.offsets))),
        "lookup_share_of_copy": 0.0,
        "sort_ms": milliseconds(captured(lambda: keys.int().sort(stable=True))),
    }
    # Read ids and offsets, write rows and bags; read rows, write pooled embeddings.
    moved = lookups * (8 + 8 + 8 + 8) + 4 * WIDTH * (touched + lookups)
    found["lookup_share_of_copy"] = 1e3 * moved / found["lookup_ms"] / limits["copy_bytes"]
    bags = (
        torch.arange(batch, device="cuda") * FEATURES + torch.arange(FEATURES, device="cuda").unsqueeze(1)
    ).view(-1)
    for cfg in (RowAdagradConfig(lr=1e-4), HessianAdagradConfig(lr=1e-4), RowAdaHessianConfig(lr=1e-4)):
        table, rule = tables.of(cfg), cfg.build()
        reads_curvature = cfg.pooled_curvature != "none"
        second = curvature if reads_curvature else None
        where = (table.weight, table.state, keys, bags, grad, second)

        def fused(rule: RowRule = rule, where: Any = where) -> None:
            rule.update_triton_(*where, sampled=None, lr_scale=1.0, samples=batch)

        def reference(rule: RowRule = rule, where: Any = where) -> None:
            hits = sum_hits_torch(*where[2:])
            rule.update_torch_(*where[:2], hits, lr_scale=1.0, samples=batch)

        ms = milliseconds(captured(fused))
        # Sorted keys, order, and bag of a lookup; its derivatives; each touched row and its state, read and written.
        moved = lookups * (4 + 8 + 8 + 4 * WIDTH * (1 + reads_curvature)) + touched * 4 * WIDTH * 2 * 2
        found[cfg.name] = {
            "fused_ms": ms,
            "fused_with_launches_ms": milliseconds(fused),
            "torch_ms": milliseconds(reference, 5),
            "bytes": moved,
            "share_of_copy_with_sort": 1e3 * moved / ms / limits["copy_bytes"],
            "share_of_copy_without_sort": 1e3 * moved / (ms - found["sort_ms"]) / limits["copy_bytes"],
        }
    return found


def correctness() -> dict[str, float]:
    """Return the largest differences of row kernels to torch operations, and of the diagonal to float64 on the CPU."""
    found: dict[str, float] = {}
    batch, sizes = 4096, [3, 20, 300, 100_000, 1_000_000]
    generator = torch.Generator().manual_seed(0)
    picked = [(torch.rand(batch, generator=generator).pow(4) * size).long() for size in sizes]
    starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    rows = torch.cat([first + part for first, part in zip(starts, picked, strict=True)]).cuda()
    bags = (torch.arange(batch) * len(sizes) + torch.arange(len(sizes)).unsqueeze(1)).view(-1).cuda()
    for dtype in (torch.float64, torch.float32):
        grad = (torch.randn(len(rows), WIDTH, generator=generator, dtype=torch.float64) / batch).to(
            "cuda", dtype
        )
        curvature = grad.square() * batch
        for cfg in (
            RowAdagradConfig(lr=0.125),
            HessianAdagradConfig(lr=0.125),
            RowAdaHessianConfig(lr=0.125),
        ):
            rule = cfg.build()
            weights = [torch.ones(sum(sizes), WIDTH, dtype=dtype, device="cuda") for _ in range(2)]
            states = [rule.new_state(weight) for weight in weights]
            for _ in range(3):
                rule.update_triton_(
                    weights[0],
                    states[0],
                    rows,
                    bags,
                    grad,
                    curvature,
                    sampled=None,
                    lr_scale=1.0,
                    samples=batch,
                )
                hits = sum_hits_torch(rows, bags, grad, curvature)
                rule.update_torch_(weights[1], states[1], hits, lr_scale=1.0, samples=batch)
            name = f"{cfg.name}_{str(dtype).removeprefix('torch.')}"
            found[f"{name}_largest_difference"] = float((weights[0] - weights[1]).abs().max())
    dense = torch.rand(512, DENSE, generator=generator, dtype=torch.float64)
    pooled = torch.randn(512, FEATURES, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.rand(512, generator=generator, dtype=torch.float64).lt(0.25).double()
    head = new_head(DLRMConfig(), torch.float64).cpu()
    expected = ExactDiagonal()(head, dense, pooled, labels, curvature_samples=512)
    for precision in PRECISIONS:
        with matrix_products(precision):
            on_device = [tensor.float().cuda() for tensor in (dense, pooled, labels)]
            got = ExactDiagonal("bf16")(head.float().cuda(), *on_device, curvature_samples=512)
        for name in ("grad", "curvature", "pooled_grad", "pooled_curvature"):
            want = getattr(expected, name)
            error = (getattr(got, name).double().cpu() - want).norm() / want.norm()
            found[f"exact_{precision}_{name}_relative_error"] = float(error)
        head = head.cpu().double()
    return found


def device_limits() -> dict[str, float]:
    """Return bytes per second of a copy, read and written, and operations per second of matrix products."""
    source = torch.rand(1 << 29, device="cuda")
    target = torch.empty_like(source)
    limits = {"copy_bytes": 2e3 * source.nbytes / milliseconds(lambda: target.copy_(source))}
    for name, dtype in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        with matrix_products("tf32" if name == "tf32" else "fp32"):
            limits[f"{name}_flops"] = 2e3 * 8192**3 / milliseconds(lambda a=a, b=b: a @ b, 8)
    return limits


def measure(rounds: int) -> dict[str, Any]:
    """Return all measurements."""
    import triton  # optional

    limits = device_limits()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "versions": {
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
        },
        "limits": limits,
        "correctness": correctness(),
        "dense": {str(batch): dense_parts(batch, limits) for batch in BATCHES},
    }
    torch.cuda.empty_cache()
    tables = Tables(kaggle())
    found["rows"] = {str(batch): row_parts(batch, tables, limits) for batch in BATCHES}
    torch.cuda.reset_peak_memory_stats()
    found["steps"] = {str(batch): full_steps(batch, tables, rounds) for batch in BATCHES}
    found["peak_bytes"] = torch.cuda.max_memory_allocated()
    del tables
    torch.cuda.empty_cache()
    tables = Tables(mlperf())
    found["mlperf_steps"] = {str(batch): full_steps(batch, tables, rounds) for batch in BATCHES}
    return found


def main() -> int:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--out", type=Path, help="write the JSON document to a file too")
    parser.add_argument("--rounds", type=int, default=15, help="rounds per variant of a step")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "error: benchmarks.gpu requires a CUDA device, but found none. Run it on a machine with a GPU.",
            file=sys.stderr,
        )
        return UsageError.exit_code
    if not triton_available():
        print("error: benchmarks.gpu requires Triton. Run pip install triton.", file=sys.stderr)
        return UsageError.exit_code
    found = measure(args.rounds)
    text = json.dumps(found, indent=1)
    if args.out:
        args.out.write_text(f"{text}\n", encoding="utf-8")
    print(text if args.json else table(found))
    return 0


def table(found: dict[str, Any]) -> str:
    """Return the full steps as text."""
    lines = [f"{found['device']}, ms per step (over adagrad)"]
    for shape, steps in (("Kaggle", found["steps"]), ("MLPerf", found["mlperf_steps"])):
        for batch, precisions in steps.items():
            for precision, variants in precisions.items():
                cells = [
                    f"{name} {v['step_ms']:.3f} ({v['over_adagrad']:.2f})" for name, v in variants.items()
                ]
                lines.append(f"{shape}, batch {batch} {precision}: " + ", ".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
