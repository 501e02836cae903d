"""Draw the pictures of docs/img that show the program itself.

python docs/pictures.py
"""

import ast
import re
import tomllib
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from dlrm_adahessian.report.panels import STYLE

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "img"
PACKAGE = ROOT / "dlrm_adahessian"


def layers() -> list[list[str]]:
    """Return the modules of each import layer, from the top, as pyproject.toml states them."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    stated = linter["contracts"][0]["layers"]
    return [
        [name.strip().removeprefix("dlrm_adahessian.") for name in layer.replace("|", ":").split(":")]
        for layer in stated
    ]


def purpose(module: str) -> str:
    """Return the first sentence of a module's docstring."""
    path = PACKAGE / module / "__init__.py" if (PACKAGE / module).is_dir() else PACKAGE / f"{module}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"[.;]\s+(?=[A-Za-z])", first)[0].rstrip(".").replace("`", "")


def architecture() -> Figure:
    """Draw the layers as boxes, the highest at the top, with what each is for."""
    rows = [name for layer in layers() for name in layer]
    figure = Figure((9.4, 0.32 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, 9.7), ylim=(-len(rows), 0.6))
    place = 0
    for depth, layer in enumerate(layers()):
        color = "#e8eaf6" if depth % 2 else "#c5cae9"
        axes.barh(-place - (len(layer) - 1) / 2, 9, height=len(layer) * 0.96, color=color)
        for name in layer:
            axes.text(0.1, -place, name, va="center", weight="bold", color="#1a237e")
            axes.text(1.5, -place, purpose(name), va="center", size=8.5, color="#202020")
            place += 1
    axes.annotate("", (9.3, 0.6 - len(rows)), (9.3, 0.4), arrowprops={"arrowstyle": "->"})
    axes.text(9.4, -len(rows) / 2, "imports", rotation=270, va="center", size=8.5)
    return figure


def main() -> None:
    """Write the pictures."""
    with mpl.rc_context(STYLE):
        architecture().savefig(IMAGES / "architecture.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
