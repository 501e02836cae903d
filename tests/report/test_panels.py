"""The style that all plots share."""

import re

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.figure import Figure

from dlrm_adahessian.metrics.binary import METRICS
from dlrm_adahessian.report.comparison_plots import cost, sensitivity
from dlrm_adahessian.report.panels import COLORS, INK, JUDGED, STYLE, forest, log_ticks, looks, panel
from dlrm_adahessian.statistics.intervals import PairedDifference


def texts(svg):
    return [text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def test_the_same_drawing_is_the_same_bytes_and_no_name_is_read_as_mathematics():
    panels = []
    for _ in range(2):
        with panel(panels) as axes:
            axes.plot([0, 1], [0, 1])
            axes.set_xlabel("a$x_{$")
    assert panels[0] == panels[1]
    assert panels[0].startswith("<svg")
    assert "a$x_{$" in texts(panels[0])


def test_text_has_the_color_of_the_page_and_the_page_shows_through():
    panels = []
    with panel(panels) as axes:
        axes.set_xlabel("x")
    assert INK not in panels[0]
    assert "currentColor" in panels[0]
    assert "#ffffff" not in panels[0]


def test_small_numbers_stand_on_the_axes_without_a_common_factor():
    panels = []
    with panel(panels) as axes:
        axes.plot([0, 4e-5], [0.5, 0.5001])
    shown = texts(panels[0])
    assert {"0.00002", "0.50004"} <= set(shown)
    assert [float(text) for text in shown], "nothing but numbers"


@pytest.mark.parametrize("values", [
    [0.02], [0.1], [1e-3, 1.1e-3], [0.03, 0.2], [1e-3, 0.5], [1e-4, 3.0], [3e-9, 2.0], [0.011, 0.09], [1.0, 10.0],
])  # fmt: skip
def test_a_logarithmic_axis_has_a_few_plain_numbers(values):
    with mpl.rc_context(STYLE):
        axes = Figure().subplots()
        log_ticks(axes, values)
    low, high = axes.get_xlim()
    ticks = axes.get_xticks()
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert low < min(values) <= max(values) < high
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)
    assert [float(label) for label in labels] == pytest.approx(ticks)
    assert not axes.get_xticks(minor=True).size


def test_names_have_looks_of_their_own_and_no_color_of_a_verdict():
    found = looks(f"entrant {number}" for number in range(4 * len(COLORS)))
    assert len(set(found.values())) == 4 * len(COLORS)
    assert not {look.color for look in found.values()} & set(JUDGED.values())


def test_a_difference_has_the_color_of_its_verdict():
    """A higher AUC and a lower log loss are better. The adjusted p value decides for log loss alone."""
    found = {
        name: PairedDifference.normal(0.01 if metric.higher_is_better else -0.01, 0.001)
        for name, metric in METRICS.items()
    }
    assert list(METRICS) == ["auc", "accuracy", "logloss"]
    for p_adjusted, of_logloss in ((0.01, "better"), (0.2, "no significant difference"), (None, "better")):
        logloss, *others = forest({"hybrid, test": (found, p_adjusted)})
        assert JUDGED[of_logloss] in logloss
        assert all(JUDGED["better"] in other for other in others)
    worse = {name: PairedDifference.normal(-each.estimate, 0.001) for name, each in found.items()}
    assert all(JUDGED["worse"] in each for each in forest({"hybrid, test": (worse, 0.01)}))
    logloss, auc, _ = forest({"one class": ({**found, "auc": None}, 0.01)})
    assert JUDGED["better"] not in auc
    assert "one class" in texts(auc)


def trials(**columns):
    return pd.DataFrame({"kind": "trial", "optimizer": "sgd", **columns})


SGD = looks(["adagrad", "sgd"])


def test_trials_that_all_diverged_have_no_plot():
    rates = {"dense.lr": [0.1, 1.0], "rows.lr": [0.1, 1.0]}
    assert sensitivity(trials(**rates, judged_logloss=[None, None]), 0.001, SGD) == []
    dense, rows = sensitivity(trials(**rates, judged_logloss=[None, 0.5]), 0.001, SGD)
    assert all(JUDGED["worse"] in each and SGD["sgd"].color in each for each in (dense, rows))


@pytest.mark.parametrize("rates", [[0.02, 0.03], [1e-3, 1e-1]])
def test_two_trials_have_rates_as_numbers(rates):
    runs = trials(**{"dense.lr": rates, "rows.lr": rates}, judged_logloss=[0.5, 0.6])
    for drawn in sensitivity(runs, 0.001, SGD):
        assert "0.01" in texts(drawn)
        assert "mathdefault" not in drawn


def test_an_entrant_keeps_its_color_in_another_plot():
    (drawn,) = cost(dict.fromkeys(SGD, 2.0), SGD)
    assert all(look.color in drawn for look in SGD.values())
    assert SGD["sgd"].color in sensitivity(
        trials(**{"dense.lr": [0.1], "rows.lr": [0.1]}, judged_logloss=[0.5]), 0.001, SGD
    )[0]  # fmt: skip
