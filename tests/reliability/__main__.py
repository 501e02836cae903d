"""Run campaigns, print a table, and write tests/reliability/results (full runs only). Exits with 1 if anything was lost.

    python -m tests.reliability [CAMPAIGN ...] [--times N] [--share F] [--json] [--folder F]

Each campaign makes the number of tries in docs/reliability.md. `--share 0.1` makes a tenth of them, and `--times` sets the
number. The output folder of a campaign is removed if nothing was lost.
"""

import argparse
import json
import logging
import math
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.reliability.campaigns import (
    agreement,
    damage,
    foreign,
    hostile,
    io_faults,
    kills,
    lines,
    links,
    moves,
    network,
    not_finite,
    pipe,
    prepared,
    ranks,
    repeats,
    results,
    shared,
    soak,
)
from tests.reliability.outcome import Campaign, Outcome

CAMPAIGNS: dict[str, tuple[Campaign, int]] = {
    "ranks": (ranks.run, 20),
    "kills": (kills.run, 200),
    "stops": (ranks.stops, 5),
    "agreement": (agreement.run, len(agreement.DISAGREEMENTS)),
    "damage": (damage.run, 650),
    "io": (io_faults.run, 1),
    "moves": (moves.run, 20),
    "repeats": (repeats.run, 16),
    "prepared": (prepared.run, 200),
    "results": (results.run, 200),
    "lines": (lines.run, 1),
    "random-files": (lines.random_files, 10_000),
    "hostile": (hostile.run, 1),
    "links": (links.run, 1),
    "foreign": (foreign.run, 1),
    "network": (network.run, 3),
    "not-finite": (not_finite.run, 42),
    "shared": (shared.run, 3),
    "pipe": (pipe.run, 45_840_617),
    "soak": (soak.run, 200_000),
}
"""Campaigns, with the number of tries in the published run."""
_RESULTS = Path(__file__).with_name("results")


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a table row for each outcome."""
    rows = [("line", "tried", "times", "lost", "silent", "seconds")]
    for outcome in outcomes:
        counts = (f"{outcome.times:,}", str(outcome.lost), str(outcome.silent), f"{outcome.seconds:,.0f}")
        if outcome.skipped:
            counts = ("skipped", "-", "-", "-")
        rows.append((str(outcome.line), outcome.tried, *counts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = []
    for row in rows:
        line, tried, *counts = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        text.append("  ".join([line, tried, *(cell.strip().rjust(len(cell)) for cell in counts)]))
    notes = [f"skipped, line {outcome.line}: {outcome.skipped}" for outcome in outcomes if outcome.skipped]
    notes += [f"line {outcome.line}: {failure}" for outcome in outcomes for failure in outcome.failures]
    return "\n".join([*text, *notes])


def main() -> int:
    """Run the requested campaigns.

    Returns:
        1 if anything was lost or silent, otherwise 0.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "campaigns",
        nargs="*",
        metavar="CAMPAIGN",
        help=f"one or more of {', '.join(CAMPAIGNS)} (default: all)",
    )
    parser.add_argument("--times", type=int, help="number of tries per campaign")
    parser.add_argument("--share", type=float, default=1.0, help="share of the published number of tries")
    parser.add_argument("--folder", type=Path, help="output folder (default: temporary folder)")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    if unknown := set(args.campaigns) - set(CAMPAIGNS):
        parser.error(f"Unknown campaign: {', '.join(unknown)}. Choose from {', '.join(CAMPAIGNS)}.")
    logging.disable(logging.WARNING)
    outcomes: list[Outcome] = []
    for name in args.campaigns or CAMPAIGNS:
        campaign, published = CAMPAIGNS[name]
        times = args.times if args.times is not None else max(1, math.ceil(args.share * published))
        print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
        found = run(campaign, times, args.folder)
        outcomes += found
        if times >= published:
            write(name, times, found)
        if not args.json:
            print(table(found), flush=True)
    if args.json:
        print(json.dumps([outcome.asdict() for outcome in outcomes]))
    elif len(args.campaigns) != 1:
        print(f"\n{table(outcomes)}")
    return 0 if all(outcome.good for outcome in outcomes) else 1


def run(campaign: Campaign, times: int, root: Path | None = None) -> list[Outcome]:
    """Run a campaign in a new folder, which is kept if anything was lost."""
    if root:
        root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="reliability-", dir=root))
    outcomes: list[Outcome] = []
    try:
        for outcome in campaign(times, folder):
            outcomes.append(outcome)  # noqa: PERF402 -- those before it broke off stay
    except Exception as error:
        broken = Outcome(line=0, tried=f"a campaign that failed in {folder}")
        broken.lose("".join(traceback.format_exception(error))[-2000:])
        outcomes.append(broken)
    if all(outcome.good for outcome in outcomes):
        shutil.rmtree(folder)
    else:
        print(f"files of the lost tries are in {folder}", file=sys.stderr)
    return outcomes


def write(name: str, times: int, outcomes: Sequence[Outcome]) -> None:
    """Write the results of a campaign next to those of the others."""
    _RESULTS.mkdir(exist_ok=True)
    document = {
        "campaign": name,
        "times": times,
        "published_times": CAMPAIGNS[name][1],
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "outcomes": [outcome.asdict() for outcome in outcomes],
    }
    (_RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
