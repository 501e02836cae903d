"""Results as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH = 12


def job_table(summary: Mapping[str, Any]) -> str:
    """Return the table that ends a training job.

    Args:
        summary: what summary.json holds.

    Returns:
        Lines of at most 100 characters.
    """
    runs = {summary["optimizer"]: summary}
    if summary["baseline"]:
        runs[f"{summary['baseline']['optimizer']} (baseline)"] = summary["baseline"]
    lines = [_row("", ["AUC", "accuracy", "log loss", "NE", "samples/s"])]
    for part in ("progressive", "test"):
        for name, run in runs.items():
            found = run[part]
            figures = [found["auc"], found["accuracy"], found["logloss"], found["normalized_entropy"]]
            speed = f"{run['train']['samples_per_second']:,.0f}" if part == "test" else ""
            lines.append(_row(f"{part:<12}{name}", [*map(_figure, figures), speed]))
    test = summary["test"]
    lines.append(
        _row("test        base rate", ["0.5000", _figure(test["base_rate_accuracy"]), "", "1.0000", ""])
    )
    if bayes := summary.get("bayes"):
        figures = [bayes["auc"], bayes["accuracy"], bayes["logloss"], bayes["normalized_entropy"]]
        lines.append(_row("test        Bayes (planted truth)", [*map(_figure, figures), ""]))
    if summary["difference"]:
        lines.append("")
        lines.append(f"{summary['optimizer']} minus {summary['baseline']['optimizer']}, with 95% interval")
        for part, key in (("progressive", "progressive_difference"), ("test", "difference")):
            if summary[key]:
                lines += [
                    _difference(part, metric, summary[key]) for metric in ("auc", "accuracy", "logloss")
                ]
        lines.append("The intervals cover the chance of the rows, for these two runs; other seeds vary too.")
    return "\n".join(lines)


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{name:<34}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _difference(part: str, metric: str, difference: Mapping[str, Any]) -> str:
    value, interval = difference[metric], difference[f"{metric}_ci95"]
    if value is None:
        return f"{part:<12}{metric:<10} -"
    low, high = interval
    better = (value < 0) if metric == "logloss" else (value > 0)
    verdict = "no difference shown" if low <= 0 <= high else "better" if better else "worse"
    return f"{part:<12}{metric:<10} {value:+.5f}  [{low:+.5f}, {high:+.5f}]  {verdict}"
