# pyright: basic
"""Write the report of a study of days (report.html, days.csv, summary.json), and word its verdicts."""

from pathlib import Path

from dlrm_adahessian.daily.job import SCRATCH
from dlrm_adahessian.daily.summary import DailySummary
from dlrm_adahessian.metrics.binary import METRICS
from dlrm_adahessian.report import daily_plots as plots
from dlrm_adahessian.report.page import render
from dlrm_adahessian.report.panels import forest, looks
from dlrm_adahessian.report.verdict import Verdict, counted, of_difference
from dlrm_adahessian.runs.kinds import WARM
from dlrm_adahessian.runs.run_directory import environment
from dlrm_adahessian.runs.sealed import write_json, write_text

PAGE = "report.html"


def write_daily(folder: Path, found: DailySummary) -> None:
    """Write summary.json, days.csv, and report.html.

    Args:
        folder: of the study.
        found: from `daily.summary.summarize`.
    """
    write_json(folder / "summary.json", found.asdict())
    write_text(folder / "days.csv", found.table().to_csv(index=False))
    titles: dict[str, str] = {WARM: "warm start"} | ({SCRATCH: "from scratch"} if found.compared else {})
    look_of = looks(titles)
    values = {
        "s": found,
        "metrics": METRICS,
        "verdicts": daily_verdicts(found),
        "titles": titles,
        "costs": {title: found.cost(name) for name, title in titles.items()},
        "looks": {titles[name]: look for name, look in look_of.items()},
        "environment": environment(),
    }
    differences = {day.tested_on: day.difference for day in found.days} | {"all days": found.difference}
    drawn = {
        "forest": forest({label: (each, None) for label, each in differences.items() if each is not None})
        if found.compared
        else [],
        "days": plots.days(found, look_of),
        "cost": plots.cost(found, look_of) if found.compared else [],
    }
    write_text(folder / PAGE, render("daily.html.j2", values, drawn))


def daily_verdicts(found: DailySummary) -> list[Verdict]:
    """Return a verdict on warm starts against training from scratch, with the samples that each trained on."""
    compared = found.compared
    difference = found.difference and found.difference["logloss"]
    if difference is None:
        last = found.days[-1]
        loss = last.runs[WARM].test.metrics.logloss
        sentence = (
            f"The warm start has log loss {loss:.4f} on {last.tested_on}, after training up to {last.day}."
        )
        return [Verdict(judged="note", sentence=sentence)]
    judged = of_difference(
        "The warm start",
        "training from scratch",
        "log loss",
        difference,
        difference.p_value,
        counted(len(compared), "day"),
    )
    ours, theirs = (
        sum(day.runs[name].samples for day in found.days if day in compared) for name in (WARM, SCRATCH)
    )
    cost = f"It trained on {ours:,} samples, and training from scratch on {theirs:,}: {theirs / ours:.1f} times as many."
    return [Verdict(judged=judged.judged, sentence=f"{judged.sentence} {cost}")]
