"""Four days of samples in files, each with tokens of its own, and the flags of a small model."""

from pathlib import Path

import numpy as np

from tests.data.columnar.slow import write_text

ROWS, BATCH = 1024, 64  # per day: 16 steps, the first of which computes the dense curvature
HASHED = """
[label]
column = "y"
[[dense]]
column = "x"
[[tokens]]
column = "site"
buckets = 40
[[bags]]
column = "genres"
separator = "|"
buckets = 20
"""
COUNTED = HASHED.replace("buckets = 40", "min_count = 2").replace("buckets = 20", "min_count = 2")
FLAGS = [
    *("--model.bottom", "8", "--model.top", "8", "--model.embedding-dim", "4"),
    *("--batch-size", str(BATCH), "--device", "cpu"),
    *("--optim.schedule.warmup", "0", "--optim.schedule.decay", "none"),
]
"""Flags for a schedule that does not depend on the total number of steps."""


def write_days(folder: Path) -> None:
    """Write four days into the folder `days`, and two schemas next to it."""
    (folder / "days").mkdir()
    (folder / "hashed.toml").write_text(HASHED)
    (folder / "counted.toml").write_text(COUNTED)
    for number in range(4):
        rng = np.random.default_rng(number)
        sites = rng.zipf(1.5, ROWS) % 30 + 5 * number
        clicks = rng.random(ROWS) < 1 / (1 + np.exp(1 - np.sin(sites)))
        columns = {
            "y": clicks.astype(int).tolist(),
            "x": rng.exponential(3, ROWS).tolist(),
            "site": [f"site-{n}" for n in sites],
            "genres": [
                "|".join(f"genre-{n}" for n in rng.integers(number, number + 9, count))
                for count in rng.integers(0, 4, ROWS)
            ],
        }
        write_text(folder / "days" / f"day_{number}.csv", columns)
