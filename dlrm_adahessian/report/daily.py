# pyright: basic
"""A study of days as files (report.html, days.csv, summary.json), and what it says in sentences."""

from pathlib import Path

from dlrm_adahessian.daily.job import SCRATCH
from dlrm_adahessian.daily.summary import DailySummary
from dlrm_adahessian.metrics.binary import METRICS
from dlrm_adahessian.report import daily_plots as plots
from dlrm_adahessian.report.page import render
from dlrm_adahessian.runs.kinds import WARM
from dlrm_adahessian.runs.run_directory import environment
from dlrm_adahessian.runs.sealed import write_json, write_text

PAGE = "report.html"


def write_daily(folder: Path, found: DailySummary) -> None:
    """Write summary.json, days.csv and report.html.

    Args:
        folder: of the study.
        found: what `daily.summary.summarize` returned.
    """
    write_json(folder / "summary.json", found.asdict())
    write_text(folder / "days.csv", found.table().to_csv(index=False))
    values = {
        "s": found,
        "metrics": METRICS,
        "verdict": daily_verdict(found),
        "costs": {name: found.cost(name) for name in (WARM, SCRATCH)},
        "environment": environment(),
    }
    drawn = {"days": plots.days(found), "cost": plots.cost(found)}
    write_text(folder / PAGE, render("daily.html.j2", values, drawn))


def daily_verdict(found: DailySummary) -> list[str]:
    """Return in sentences how warm starts compare with training from scratch, and at what cost."""
    compared = found.compared
    difference = found.difference and found.difference["logloss"]
    if difference is None:
        last = found.days[-1]
        loss = last.runs[WARM].test.metrics.logloss
        return [
            f"After {last.day} the model that went on from day to day has log loss {loss:.5f} on {last.tested_on}."
        ]
    logloss, (low, high) = difference.estimate, difference.ci95
    count = f"{len(compared)} day{'s' if len(compared) > 1 else ''}"
    interval = f"{abs(logloss):.5f} (95% CI {min(abs(low), abs(high)):.5f} to {max(abs(low), abs(high)):.5f})"
    if low > 0 or high < 0:
        way = "beats" if high < 0 else "loses to"
        first = f"The warm start {way} training from scratch by {interval} in log loss over the next {count}."
    else:
        first = (
            f"No significant difference in log loss between warm start and training from scratch over the next {count}: "
            f"{logloss:+.5f} (95% CI {low:+.5f} to {high:+.5f})."
        )
    ours, theirs = (
        sum(day.runs[name].samples for day in found.days if day in compared) for name in (WARM, SCRATCH)
    )
    return [
        first,
        f"Over these days it learned {ours:,} samples, and training from scratch {theirs:,}, {theirs / ours:.1f} times as "
        "many.",
    ]
