"""Draw docs/img/prepare-memory.svg from the results of the campaign `pipe`.

python -m tests.reliability.plot
"""

import json

import matplotlib as mpl
from matplotlib.figure import Figure

from dlrm_adahessian.report.page import COLOURS, STYLE
from tests.reliability.runs import ROOT


def main() -> None:
    """Plot resident memory and lines read against time."""
    path = ROOT / "tests" / "reliability" / "results" / "pipe.json"
    (outcome,) = json.loads(path.read_text(encoding="utf-8"))["outcomes"]
    seconds, rows, memory = zip(*outcome["figures"]["samples"], strict=True)
    with mpl.rc_context(STYLE):
        figure = Figure((7, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(seconds, memory, color=COLOURS[0], label="resident, without mapped files")
        axes.axhline(1024, color="#000000", linewidth=0.8, linestyle="--", label="1 GiB")
        axes.set_xlabel("seconds")
        axes.set_ylabel("MiB")
        axes.set_ylim(0)
        lines = axes.twinx()
        lines.plot(
            seconds, [count / 1e6 for count in rows], color=COLOURS[1], label="lines written to the pipe"
        )
        lines.set_ylabel("million lines")
        lines.set_ylim(0)
        figure.legend(loc="outside upper center", ncols=3)
        figure.savefig(ROOT / "docs" / "img" / "prepare-memory.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
