"""Plots of slices, whose names come from the data."""

import numpy as np

from dlrm_adahessian.evaluation.figures import slice_figures
from dlrm_adahessian.evaluation.slices import Slice
from dlrm_adahessian.report.evaluation_plots import slices
from dlrm_adahessian.report.panels import looks


def test_any_text_names_a_slice() -> None:
    """The browser has letters that matplotlib's font lacks. Long names are shortened."""
    rng = np.random.default_rng(0)
    labels, scored = rng.integers(0, 2, 200).astype(np.int8), {"run": rng.random(200).astype(np.float32)}
    address = "https://news.example/" + 2000 * "a"
    parts = [Slice(name, np.arange(100) + start) for name, start in (("漢字", 0), (address, 100))]
    (svg,) = slices(slice_figures(labels, scored, parts), looks(["run"]))
    assert "漢字" in svg
    assert "https://news.example/aaa" in svg
    assert "…" in svg
    assert "a" * 40 not in svg
