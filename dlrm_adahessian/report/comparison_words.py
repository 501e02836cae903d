"""What a comparison says, in sentences."""

from collections.abc import Mapping
from typing import Any

from dlrm_adahessian.compare.results import PARTS
from dlrm_adahessian.report.words import judgement, p_words


def to_first(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the differences to the first optimizer, the reference of the report.

    Args:
        summary: what summary.json holds.

    Returns:
        Its `differences` against that one.
    """
    first = next(iter(summary["optimizers"]))
    return [row for row in summary["differences"] if row["against"] == first]


def headline(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each kind of rows: who is better than the first optimizer, who is worse.

    Args:
        summary: what summary.json holds.

    Returns:
        Plain sentences.
    """
    first = next(iter(summary["optimizers"]))
    sentences: list[str] = []
    for part in PARTS:
        groups: dict[str, list[str]] = {"better": [], "worse": [], "no difference shown": []}
        for row in to_first(summary):
            if row["rows"] == part:
                groups[judgement(row)].append(row["optimizer"])
        said = [f"{judged}: {', '.join(names)}" for judged, names in groups.items() if names]
        if said:
            sentences.append(f"Log loss of {part} rows against {first}: {'; '.join(said)}.")
    return sentences


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each optimizer after the first, of its difference to the first.

    Args:
        summary: what summary.json holds.

    Returns:
        Plain sentences.
    """
    names = list(summary["optimizers"])
    sentences: list[str] = []
    for name in names[1:]:
        found = [row for row in to_first(summary) if row["optimizer"] == name]
        if not found:
            sentences.append(f"{name} cannot be compared with {names[0]}: no seed finished with both.")
        sentences.extend(_sentence(row) for row in found)
    return sentences


def _sentence(row: Mapping[str, Any]) -> str:
    low, high = row["logloss_ci95"]
    seeds = f"{row['seeds']} {'seed' if row['seeds'] == 1 else 'seeds'}"
    where = f"{row['row_count']:,} {row['rows']} rows, {seeds}"
    what = f"log loss {row['logloss']:+.5f} [{low:+.5f}, {high:+.5f}], {where}, adjusted p {p_words(row['p_adjusted'])}"
    pair = f"{row['optimizer']} against {row['against']}"
    judged = judgement(row)
    if judged != "no difference shown":
        return f"{pair}: {judged} ({what})."
    return (
        f"{pair}: {judged} ({what}); one of {row['minimum_detectable_logloss']:.5f} would have been found "
        "four times of five."
    )
