"""Find out from its first lines whether a text has a label column, or was written by another program.

A line of 39 columns is either a sample without a label, or a sample with one that lost the tab before an empty last token.
In the first case, columns 1 to 13 are integers. In the second, column 1 is the label and columns 2 to 14 are integers. A
line that fits both decides nothing. The first lines vote.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Literal

from dlrm_adahessian.data.criteo.columns import COLUMN_NAMES
from dlrm_adahessian.data.criteo.faults import is_row
from dlrm_adahessian.data.criteo.repairs import find_repairs
from dlrm_adahessian.errors import DataError

Labels = Literal["required", "optional"]
_Shown = Literal["label", "no label", "either", "nothing"]
_UNLABELLED = len(COLUMN_NAMES) - 1  # columns


def find_layout(lines: Sequence[bytes], name: str, labels: Labels) -> bool:
    """Return whether a text has a label column.

    Args:
        lines: first lines of the text, without newlines. If none is valid, the number of columns of the first decides.
        name: name of the text in messages.
        labels: whether the label may be missing.

    Returns:
        True if there is a label column.

    Raises:
        DataError: a required label is missing, the layout is ambiguous, or the lines have a known other format.
    """
    shown = Counter(map(_shown_by, lines))
    labelled, unlabelled = shown["label"], shown["no label"]
    if shown["nothing"] == len(lines) and (told := find_repairs(lines, partial(_fits, labels=labels))):
        raise DataError(f"{name} {told}")
    if labels == "required":
        if unlabelled > labelled:
            raise DataError(
                f"{name} has {_UNLABELLED} columns and no label. Unlabeled samples can be scored with evaluate, but not "
                "used for training. Pass data with labels."
            )
        return True
    if labelled + unlabelled:
        return labelled >= unlabelled
    if shown["either"]:
        raise DataError(
            f"{name} has {_UNLABELLED} columns: its lines lack either the label or a trailing tab. "
            f"Write all {len(COLUMN_NAMES)} columns; a line without a label begins with a tab."
        )
    return lines[0].count(b"\t") != _UNLABELLED - 1


def _fits(line: bytes, labels: Labels) -> bool:
    """Return whether a line is valid; if labels are optional, the label column may be missing."""
    optional = labels == "optional"
    with_label = is_row(line, labelled=True, empty_label=optional)
    return with_label or (optional and is_row(line, labelled=False, empty_label=True))


def _shown_by(line: bytes) -> _Shown:
    """Return what a line shows about the layout."""
    if is_row(line, labelled=True, empty_label=True):
        return "label"
    cut = is_row(line.removesuffix(b"\r") + b"\t", labelled=True, empty_label=False)
    if is_row(line, labelled=False, empty_label=False):
        return "either" if cut else "no label"
    return "label" if cut else "nothing"
