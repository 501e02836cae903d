"""Draw the pictures of docs/img that show the program itself: its architecture, its table in a terminal, its reports.

    python docs/pictures.py

Reports are drawn by a headless Chromium, which must be installed. Plots of benchmarks are drawn by `benchmarks/plots.py`.
"""

import ast
import hashlib
import io
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from rich.text import Text

from dlrm_adahessian.report.panels import STYLE

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "img"
PACKAGE = ROOT / "dlrm_adahessian"
TUTORIAL = ROOT / "docs" / "tutorials" / "laptop.md"
SOURCE = "Source"
"""Key of a picture's metadata: the digest of the sources that made the report in it."""
_COLUMNS = 100


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


def report_sources() -> str:
    """Return the digest of the files that decide how a report looks."""
    files = sorted(path for path in (PACKAGE / "report").rglob("*") if path.suffix in (".py", ".j2"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def commands() -> list[list[str]]:
    """Return the commands of the tutorial that train and compare."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    written = [shlex.split(block.replace("\\\n", " ")) for block in blocks]
    return [
        words[1:]
        for words in written
        if words[:2] in (["dlrm-adahessian", "train"], ["dlrm-adahessian", "compare"])
    ]


def run(arguments: list[str], folder: Path) -> str:
    """Run the program, and return what it shows in a terminal on its standard output."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "dlrm_adahessian", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(_COLUMNS)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=follower) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the other end was closed
                break
            shown += piece
    if process.returncode:
        raise RuntimeError(f"{shlex.join(command)} ended with {process.returncode}")
    return shown.decode().replace("\r\n", "\n")


def draw_terminal(shown: str, command: str, path: Path) -> None:
    """Write a terminal window as SVG, with fonts of the reader."""
    console = Console(record=True, width=_COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(shown.rstrip()))
    svg = console.export_svg(title=command)
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "DejaVu Sans Mono, Menlo, Consolas, monospace")
    path.write_text(svg, encoding="utf-8")


def draw_page(page: Path, path: Path, width: int, height: int) -> None:
    """Write the top of an HTML page as PNG, with the digest of what made it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise RuntimeError("drawing reports needs Chromium: apt-get install chromium")
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={width},{height}"]
    subprocess.run(
        [browser, *options, f"--screenshot={path}", page.as_uri()], check=True, capture_output=True
    )
    digest = PngInfo()
    digest.add_text(SOURCE, report_sources())
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256)
    small.save(path, optimize=True, pnginfo=digest)


def main() -> None:
    """Write the pictures."""
    with mpl.rc_context(STYLE):
        architecture().savefig(IMAGES / "architecture.svg", metadata={"Date": None})
    train, compare = commands()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_terminal(run(train, folder), "dlrm-adahessian train", IMAGES / "terminal-train.svg")
        run(compare, folder)
        draw_page(folder / "runs" / "study" / "report.html", IMAGES / "report-top.png", 1100, 900)
        other = [
            *train[: train.index("--out")],
            "--optimizer",
            "adagrad",
            "--baseline",
            "none",
            "--out",
            "runs/adagrad",
        ]
        run(other, folder)
        [rows] = (path for path in (folder / "data" / "cache").glob("synthetic-*") if path.is_dir())
        judged = [
            "evaluate",
            "--run",
            "runs/first",
            "runs/adagrad",
            "--data-path",
            str(rows),
            "--part",
            "test",
        ]
        run([*judged, "--report", "evaluation.html", "--out", "predictions.parquet"], folder)
        draw_page(folder / "evaluation.html", IMAGES / "evaluation-report.png", 1100, 900)


if __name__ == "__main__":
    main()
