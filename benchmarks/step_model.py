"""Model the time of a step on several ranks: computation, latency of messages, and bandwidth.

    t = s (a + c b) + s l m + s v,   s = max(1, ranks / cores)

with b samples per rank, m sequential messages, and v bytes sent per rank. A fit gives a, c, l, and the inverse bandwidth.
The ranks of one machine share its cores, and loopback is their work too, hence s. Between machines with a network, s is 1.

    python -m benchmarks.step_model [--samples B] [--fixed MS] [--per-sample US] [--message US] [--bandwidth GB/S] [--json]

predicts steps of hybrid with the Kaggle model on more ranks. The defaults describe H100 GPUs: a line through its measured
steps at 16,384 and 65,536 samples (tf32, EXPERIMENTS.md), and an assumed network of 50 GB/s per GPU with 10 us per
message.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from benchmarks.support.printing import print_rows

_FLAGS = 7  # numbers in the all-reduce besides gradient, curvature, and logits


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The data that a step exchanges, for table-wise sharding and tables of one width.

    Attributes:
        features: F, lookups per sample.
        dim: D.
        parameters: P, parameters of the dense part.
        row_curvature: C, curvature numbers per bag that a row rule reads.
        dense_curvature: share of the steps with dense curvature.
        number_bytes: bytes per number exchanged for the tables.
    """

    features: int
    dim: int
    parameters: int
    row_curvature: int
    dense_curvature: float
    number_bytes: int = 4

    def sent_bytes(self, ranks: int, samples: int) -> float:
        """Return the bytes that a rank sends in a step.

        Args:
            ranks: N.
            samples: b, per rank.
        """
        others = (ranks - 1) / ranks
        lookups = 12 * samples * self.features
        rows = self.number_bytes * samples * self.features * (2 * self.dim + self.row_curvature)
        dense = 2 * 4 * (self.parameters * (1 + self.dense_curvature) + ranks * samples + _FLAGS)
        return others * (lookups + rows + dense)


def messages(ranks: int) -> int:
    """Return the number of sequential messages of a rank in a step: four all-to-alls, and a ring for the sum."""
    return 4 * (ranks - 1) + 2 * (ranks - 1)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measured step."""

    ranks: int
    samples: int
    sent_bytes: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StepModel:
    """The coefficients, all at least 0.

    Attributes:
        fixed: a, seconds per step.
        per_sample: c, seconds.
        per_message: l, seconds.
        per_byte: seconds, the inverse of the bandwidth.
        cores: cores of the machine that the ranks share; None if each rank has its own machine.
    """

    fixed: float
    per_sample: float
    per_message: float
    per_byte: float
    cores: int | None

    def seconds(self, ranks: int, samples: int, sent_bytes: float) -> float:
        """Return the seconds of a step of `ranks` ranks with `samples` samples each."""
        parts = _parts(ranks, samples, sent_bytes, self.cores)
        return float(parts @ [self.fixed, self.per_sample, self.per_message, self.per_byte])


def fitted(points: Sequence[Point], cores: int | None) -> StepModel:
    """Fit the coefficients by least squares of the relative errors.

    Args:
        points: measurements with several numbers of ranks and batch sizes.
        cores: cores that the ranks share.
    """
    parts = np.array([_parts(p.ranks, p.samples, p.sent_bytes, cores) / p.seconds for p in points])
    scale = np.abs(parts).max(0)
    scale[scale == 0] = 1
    found = nnls(parts / scale, np.ones(len(points)))[0] / scale
    fixed, per_sample, per_message, per_byte = map(float, found)
    return StepModel(
        fixed=fixed, per_sample=per_sample, per_message=per_message, per_byte=per_byte, cores=cores
    )


def _parts(ranks: int, samples: int, sent_bytes: float, cores: int | None) -> np.ndarray:
    share = 1.0 if cores is None else max(1.0, ranks / cores)
    return share * np.array([1.0, samples, messages(ranks), sent_bytes])


def main() -> None:
    """Print a row for each number of ranks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=8192, help="samples per rank")
    parser.add_argument("--fixed", type=float, default=0.38, help="ms per step, independent of the batch")
    parser.add_argument("--per-sample", type=float, default=0.068, help="us")
    parser.add_argument("--message", type=float, default=10.0, help="us")
    parser.add_argument("--bandwidth", type=float, default=50.0, help="GB/s per rank")
    parser.add_argument("--ranks", type=int, nargs="+", default=(1, 2, 4, 8, 32, 128))
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    model = StepModel(
        fixed=1e-3 * args.fixed,
        per_sample=1e-6 * args.per_sample,
        per_message=1e-6 * args.message,
        per_byte=1e-9 / args.bandwidth,
        cores=None,
    )
    traffic = Traffic(features=26, dim=16, parameters=475_985, row_curvature=1, dense_curvature=1 / 8)
    alone = model.seconds(1, args.samples, 0)
    rows: list[dict[str, float]] = []
    for ranks in args.ranks:
        sent = traffic.sent_bytes(ranks, args.samples)
        seconds = model.seconds(ranks, args.samples, sent)
        rows.append(
            {
                "ranks": ranks,
                "batch": ranks * args.samples,
                "step_ms": 1e3 * seconds,
                "messages_ms": 1e3 * messages(ranks) * model.per_message if ranks > 1 else 0.0,
                "bytes_ms": 1e3 * sent * model.per_byte,
                "samples_per_second": ranks * args.samples / seconds,
                "efficiency": alone / seconds,
            }
        )
    print_rows(rows, as_json=args.json)


if __name__ == "__main__":
    main()
