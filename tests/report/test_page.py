"""What all pages have in common."""

import pytest
from jinja2 import UndefinedError

from dlrm_adahessian.report.page import render


def test_a_template_that_lacks_a_value_is_an_error():
    with pytest.raises(UndefinedError, match="'s' is undefined"):
        render("comparison.md.j2", {}, {})
