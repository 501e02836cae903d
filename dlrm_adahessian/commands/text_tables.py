"""Results as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from dlrm_adahessian.report.words import judgement, p_words

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


def evaluation_table(summary: Mapping[str, Any]) -> str:
    """Return what `evaluate` prints: rows, a line for each figure with its interval, differences, slices.

    Args:
        summary: of `evaluation.job.evaluate`.

    Returns:
        Lines of at most 120 characters.
    """
    timing = summary["timing"]
    lines = [
        f"{summary['rows']:,} rows, {summary['labelled']:,} with a label, {summary['rejected']:,} rejected; "
        f"{timing['seconds']:.1f} s, {timing['rows_per_second']:,.0f} rows/s"
    ]
    if len(summary["files"]) > 1:
        lines += [f"  {f['name']}: {f['rows']:,} rows, {f['rejected']:,} rejected" for f in summary["files"]]
    for model in summary["models"] if summary["labelled"] else ():
        source = f", {model['checkpoint']} of {model['run']}" if "run" in model else ""
        lines += ["", f"{model['name']}{source}", *(_with_interval(name, model) for name in _FIGURES)]
    for difference in summary["differences"]:
        lines += ["", f"{difference['model']} minus {difference['against']}, with 95% interval"]
        lines += [_compared(metric, difference) for metric in ("auc", "accuracy", "logloss")]
    for name, cut in summary["slices"].items():
        lines += ["", *_slice_rows(name, cut)]
    if summary["labelled"]:
        lines += [
            "",
            "Intervals hold 95% over the chance of the rows, for these models; other seeds vary too.",
        ]
    if "predictions" in summary:
        lines += [f"predictions written to {summary['predictions']}"]
    return "\n".join(lines)


_FIGURES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "base_rate_accuracy": "accuracy of the base rate",
    "logloss": "log loss",
    "normalized_entropy": "normalized entropy",
    "calibration": "calibration",
    "expected_calibration_error": "calibration error",
}


def _with_interval(name: str, model: Mapping[str, Any]) -> str:
    ends = model.get(f"{name}_ci95")
    interval = f"  [{ends[0]:.5f}, {ends[1]:.5f}]" if ends else ""
    value = "-" if model[name] is None else f"{model[name]:.5f}"
    return f"  {_FIGURES[name]:<28}{value:>10}{interval}"


def _compared(metric: str, difference: Mapping[str, Any]) -> str:
    """Return a difference; the log loss is the one that is judged, since its p value knows of all the models."""
    if difference[metric] is None:
        return f"  {_FIGURES[metric]:<28}{'-':>10}"
    low, high = difference[f"{metric}_ci95"]
    line = f"  {_FIGURES[metric]:<28}{difference[metric]:>+10.5f}  [{low:+.5f}, {high:+.5f}]"
    if metric != "logloss":
        return line
    return f"{line}  p {p_words(difference['p_adjusted'])}: {judgement(difference)}"


def _slice_rows(name: str, cut: Mapping[str, Any]) -> list[str]:
    """Return the figures of a slicing: of the first model, and the differences of the log loss to it."""
    others = [difference["model"] for difference in cut["slices"][0]["differences"]] if cut["slices"] else []
    title = name if name == cut["about"] else f"{name}: {cut['about']}"
    lines = [title, f"{'':<44}{'rows':>12}{'click rate':>12}{'AUC':>10}{'NE':>10}  [95% interval]"]
    for entry in cut["slices"]:
        figures = next(iter(entry["models"].values()))
        ends = figures["normalized_entropy_ci95"]
        lines.append(
            f"  {entry['slice']:<42}{entry['rows']:>12,}{_figure(figures['base_rate']):>12}{_figure(figures['auc']):>10}"
            f"{_figure(figures['normalized_entropy']):>10}"
            + (f"  [{ends[0]:.4f}, {ends[1]:.4f}]" if ends else "")
        )
    for place, other in enumerate(others):
        lines.append(f"{name}: log loss of {other} minus the first, p adjusted over these slices")
        for entry in cut["slices"]:
            difference = entry["differences"][place]
            if difference["logloss"] is not None:
                low, high = difference["logloss_ci95"]
                lines.append(
                    f"  {entry['slice']:<42}{difference['logloss']:>+12.5f}  [{low:+.5f}, {high:+.5f}]"
                    f"  p {p_words(difference['p_adjusted'])}"
                )
    return lines


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
