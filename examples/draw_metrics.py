"""Plot how a run learned: the log loss of each batch before the model trained on it, from metrics.jsonl.

python examples/draw_metrics.py RUN PICTURE.png
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure


def main(run: str, picture: str) -> None:
    """Plot the curves, and print their last values."""
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]  # the others are evaluations on validation data
    validated = [line for line in lines if "val" in line]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([s["step"] for s in steps], [s["loss"] for s in steps], ".", alpha=0.4, label="one batch")
    axes.plot([s["step"] for s in steps], [s["window_logloss"] for s in steps], label="last 20,000 samples")
    axes.plot(
        [v["step"] for v in validated], [v["val"]["logloss"] for v in validated], "o", label="validation"
    )
    axes.set(xlabel="step", ylabel="log loss")
    axes.legend()
    figure.savefig(picture, dpi=150)
    window, val = steps[-1]["window_logloss"], validated[-1]["val"]["logloss"]
    print(f"step {steps[-1]['step']}: log loss {window:.4f}, validation {val:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
