"""Which columns a text has, as its first lines show: a label or none, or those of another program.

A line of 39 columns is a row without a label, or a row with one that lost the tab before an empty last token. In the
first, columns 1 to 13 hold integers, in the second column 1 holds the label and 2 to 14 hold integers. A line that fits
both shows nothing; the first lines decide by majority.
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
    """Tell whether the rows of a text have a label column.

    Args:
        lines: its first ones, without their newlines; where none is a row, the number of columns of the first decides.
        name: what messages call the text.
        labels: whether the label may be missing.

    Returns:
        Whether they do.

    Raises:
        DataError: they have none and must; or it can't be told; or none of the lines is a row, and what they are is known.
    """
    shown = Counter(map(_shown_by, lines))
    labelled, unlabelled = shown["label"], shown["no label"]
    if shown["nothing"] == len(lines) and (told := find_repairs(lines, partial(_fits, labels=labels))):
        raise DataError(f"{name} {told}")
    if labels == "required":
        if unlabelled > labelled:
            raise DataError(
                f"{name} has {_UNLABELLED} columns, no label: such rows can be scored with evaluate, not trained on; "
                "give rows with a label"
            )
        return True
    if labelled + unlabelled:
        return labelled >= unlabelled
    if shown["either"]:
        raise DataError(
            f"{name} has {_UNLABELLED} columns, and its lines may lack the label or a tab at their end; "
            f"write all {len(COLUMN_NAMES)} columns, a row without a label begins with a tab"
        )
    return lines[0].count(b"\t") != _UNLABELLED - 1


def _fits(line: bytes, labels: Labels) -> bool:
    """Whether a line is a row, without the label column too where labels may be missing."""
    optional = labels == "optional"
    with_label = is_row(line, labelled=True, empty_label=optional)
    return with_label or (optional and is_row(line, labelled=False, empty_label=True))


def _shown_by(line: bytes) -> _Shown:
    """Return what a line shows of the layout."""
    if is_row(line, labelled=True, empty_label=True):
        return "label"
    cut = is_row(line.removesuffix(b"\r") + b"\t", labelled=True, empty_label=False)
    if is_row(line, labelled=False, empty_label=False):
        return "either" if cut else "no label"
    return "label" if cut else "nothing"
