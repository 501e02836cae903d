"""What a difference in log loss shows, in one sentence that the terminal, the Markdown, and the page share."""

import math
from dataclasses import dataclass

from dlrm_adahessian.statistics.comparison import judgment, p_words
from dlrm_adahessian.statistics.components import Estimate, minimum_detectable
from dlrm_adahessian.statistics.intervals import PairedDifference


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A sentence of a report's first screen.

    Attributes:
        judged: "better", "worse", or "no significant difference"; "note" and "caution" are not results of a test.
        sentence: plain text.
    """

    judged: str
    sentence: str


def of_difference(
    ours: str, theirs: str, where: str, found: Estimate | PairedDifference, p_adjusted: float, based_on: str
) -> Verdict:
    """Return the verdict on a difference in log loss.

    Args:
        ours: the subject of the sentence.
        theirs: what it is compared with.
        where: the metric with its samples, such as "progressive log loss".
        found: ours minus theirs, in nats.
        p_adjusted: decides; the sentence names it if it disagrees with the interval.
        based_on: what the interval is based on, such as "10 seeds".

    Returns:
        Better or worse with the size of the difference, or the minimum detectable difference.
    """
    judged = judgment(found.estimate, p_adjusted)
    low, high = found.ci95
    digits = max(4, -math.floor(math.log10((high - low) / 2))) if high > low else 4
    if judged != "no significant difference":
        near, far = sorted((abs(low), abs(high)))
        return Verdict(
            judged=judged,
            sentence=f"{ours} {'beats' if judged == 'better' else 'loses to'} {theirs} in {where} by "
            f"{abs(found.estimate):.{digits}f} (95% CI {near:.{digits}f} to {far:.{digits}f}), {based_on}.",
        )
    adjusted = "" if low <= 0 <= high else f", adjusted p {p_words(p_adjusted)}"
    return Verdict(
        judged=judged,
        sentence=f"{ours} vs. {theirs}: no significant difference in {where} ({found.estimate:+z.{digits}f}, "
        f"95% CI {low:+z.{digits}f} to {high:+z.{digits}f}{adjusted}), {based_on}; minimum detectable difference "
        f"{minimum_detectable(found):.{digits}f} (80% power).",
    )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, "1 seed" or "10 seeds"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
