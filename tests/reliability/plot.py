"""Draw docs/img/prepare-memory.svg and docs/img/soak.svg from the results of the campaigns `pipe` and `soak`.

python -m tests.reliability.plot
"""

import json
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from dlrm_adahessian.report.panels import COLORS, STYLE
from tests.reliability.runs import ROOT


def main() -> None:
    """Draw both plots."""
    _draw("pipe", "prepare-memory.svg", _prepare_memory)
    _draw("soak", "soak.svg", _soak)


def _draw(campaign: str, name: str, plot: Callable[[Figure, list[Any]], None]) -> None:
    """Draw the measurements of a campaign to a file in docs/img."""
    path = ROOT / "tests" / "reliability" / "results" / f"{campaign}.json"
    (outcome,) = json.loads(path.read_text(encoding="utf-8"))["outcomes"]
    with mpl.rc_context(STYLE):
        figure = Figure((7, 3.2), layout="constrained")
        plot(figure, outcome["figures"]["samples"])
        figure.savefig(ROOT / "docs" / "img" / name, metadata={"Date": None})


def _prepare_memory(figure: Figure, samples: list[Any]) -> None:
    """Plot resident memory and the number of lines against time."""
    seconds, rows, memory = zip(*samples, strict=True)
    axes = figure.subplots()
    axes.plot(seconds, memory, color=COLORS[0], label="resident, without mapped files")
    axes.axhline(1024, color="#000000", linewidth=0.8, linestyle="--", label="1 GiB")
    axes.set_xlabel("seconds")
    axes.set_ylabel("MiB")
    axes.set_ylim(0)
    lines = axes.twinx()
    lines.plot(seconds, [count / 1e6 for count in rows], color=COLORS[1], label="lines written to the pipe")
    lines.set_ylabel("million lines")
    lines.set_ylim(0)
    figure.legend(loc="outside upper center", ncols=3)


def _soak(figure: Figure, samples: list[Any]) -> None:
    """Plot memory, open files, and files in the run folder against steps."""
    _, steps, *columns = zip(*samples, strict=True)
    names = ("MiB resident", "open files", "files in\nthe run folder")
    for axes, values, name in zip(figure.subplots(len(names), sharex=True), columns, names, strict=True):
        axes.plot([step / 1000 for step in steps], values, color=COLORS[0])
        axes.set_ylabel(name)
        axes.set_ylim(0)
    axes.set_xlabel("thousand steps")


if __name__ == "__main__":
    main()
