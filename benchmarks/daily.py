"""Compare warm starts day after day with training from scratch on generated data, in log loss and cost.

    python -m benchmarks.daily [--rows 700000] [--days 7] [--out runs/bench-daily] [--json] [flags of daily]

The benchmark writes one file in Criteo's format per day, and runs `daily` on them. The report is in --out. A second call
continues.
"""

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from benchmarks.support.printing import print_rows
from dlrm_adahessian import cli
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.text import format_rows
from dlrm_adahessian.data.synthetic.generator import row_blocks


def write_days(folder: Path, rows: int, days: int) -> None:
    """Write generated samples to one file per day, unless the files exist."""
    folder.mkdir(parents=True, exist_ok=True)
    each = rows // days
    written, day = 0, 0
    file = (folder / "day_0").open("wb")
    for block in row_blocks(SyntheticConfig(), each * days):
        lines = format_rows(block).splitlines(keepends=True)
        while lines:
            taken, lines = lines[: each - written], lines[each - written :]
            file.writelines(taken)
            written += len(taken)
            if written == each and lines:
                file.close()
                day, written = day + 1, 0
                file = (folder / f"day_{day}").open("wb")
    file.close()


def main() -> None:
    """Run the study, and print the metrics of each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=700_000, help="generated samples of all days")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-daily"))
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args, flags = parser.parse_known_args()
    days = args.out / f"days-{args.rows}"
    if not days.exists():
        write_days(days, args.rows, args.days)
    study = args.out / "study"
    own = ["--data-path", str(days), "--out", str(study), "--data.cache-dir", str(args.out / "cache")]
    with redirect_stdout(sys.stderr):
        code = cli.main(["daily", *own, *flags])
    if code:
        raise SystemExit(code)
    found = json.loads((study / "summary.json").read_text())
    rows = [
        {"day": day["day"], "run": run, "logloss": day[run]["test"]["logloss"], **day[run]["train"]}
        for day in found["days"]
        for run in ("warm", "scratch")
        if run in day
    ]
    print_rows(rows, as_json=args.json)


if __name__ == "__main__":
    main()
