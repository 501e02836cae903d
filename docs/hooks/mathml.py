"""MkDocs hook: formulas between dollar signs become MathML, which browsers show without a script or a network."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Return the HTML of a page with its formulas as MathML."""

    def drawn(formula: re.Match[str]) -> str:
        block = formula[3] is not None
        mathml = convert(
            html.unescape(formula[3] if block else formula[2]), display="block" if block else "inline"
        )
        return f'<div class="formula">{mathml}</div>' if block else mathml

    return _FORMULA.sub(drawn, content)
