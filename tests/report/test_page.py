"""What all pages have in common."""

import matplotlib as mpl
import pytest
from jinja2 import UndefinedError

from dlrm_adahessian.report.page import STYLE, legend, new_figure, render, svg_text


def test_the_same_figure_is_the_same_bytes_and_no_name_is_left_out_or_read_as_mathematics():
    def drawn():
        with mpl.rc_context(STYLE):
            figure, axes = new_figure(1, 1, 3, 2)
            axes[0].plot([0, 1], [0, 1])
            legend(figure, ["_hidden", "a$x_{$"])
            return svg_text(figure)

    text = drawn()
    assert text == drawn()
    assert text.startswith("<svg")
    for name in ("_hidden", "a$x_{$"):
        assert f"{name}</text>" in text


def test_a_value_that_a_template_asks_for_is_not_left_out_in_silence():
    with pytest.raises(UndefinedError, match="'s' is undefined"):
        render("comparison.md.j2", {}, {})
