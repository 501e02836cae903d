"""The sentences of the first screen."""

import pytest

from dlrm_adahessian.report.verdict import counted, of_difference
from dlrm_adahessian.statistics.intervals import PairedDifference


def said(estimate: float, error: float, p_adjusted: float | None = None) -> tuple[str, str]:
    found = PairedDifference.normal(estimate, error)
    verdict = of_difference(
        "hybrid",
        "adagrad",
        "test log loss",
        found,
        found.p_value if p_adjusted is None else p_adjusted,
        "10 seeds",
    )
    return verdict.judged, verdict.sentence


@pytest.mark.parametrize(("estimate", "error", "judged", "sentence"), [
    # An interval is the estimate +- 1.96 errors. With 80% power, 1.96 + 0.84 errors are detected.
    (-0.0021, 0.0009 / 1.96, "better",
     "hybrid beats adagrad in test log loss by 0.0021 (95% CI 0.0012 to 0.0030), 10 seeds."),
    (0.0021, 0.0009 / 1.96, "worse",
     "hybrid loses to adagrad in test log loss by 0.0021 (95% CI 0.0012 to 0.0030), 10 seeds."),
    (0.0133, 0.0201 / 1.96, "no significant difference",
     "hybrid vs. adagrad: no significant difference in test log loss (+0.0133, 95% CI -0.0068 to +0.0334), 10 seeds; "
     "minimum detectable difference 0.0287 (80% power)."),
    (-0.000021, 0.000009 / 1.96, "better",
     "hybrid beats adagrad in test log loss by 0.000021 (95% CI 0.000012 to 0.000030), 10 seeds."),
    (0.0, 0.0, "no significant difference",
     "hybrid vs. adagrad: no significant difference in test log loss (+0.0000, 95% CI +0.0000 to +0.0000), 10 seeds; "
     "minimum detectable difference 0.0000 (80% power)."),
])  # fmt: skip
def test_a_sentence_gives_the_difference_with_its_interval(estimate, error, judged, sentence):
    assert said(estimate, error) == (judged, sentence)


def test_the_adjusted_p_value_decides_and_is_named_if_the_interval_disagrees():
    judged, sentence = said(-0.0021, 0.0009 / 1.96, p_adjusted=0.0812)
    assert judged == "no significant difference"
    assert "(-0.0021, 95% CI -0.0030 to -0.0012, adjusted p 0.0812)" in sentence


def test_numbers_agree_with_their_nouns():
    assert [counted(number, "seed") for number in (1, 10, 12_000)] == ["1 seed", "10 seeds", "12,000 seeds"]
