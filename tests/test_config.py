"""Which optimizers, estimators and models go together."""

import pytest

from dlrm_adahessian.config import from_dict
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.presets import optimizer_preset


def test_an_optimizer_that_reads_curvature_needs_an_estimator():
    with pytest.raises(
        UsageError,
        match="sophia/sophia reads the curvature, and curvature is none; choose one of exact, hutchinson, "
        "gauss_newton_bartlett",
    ):
        from_dict({**optimizer_preset("sophia"), "curvature": "none"})


def test_an_optimizer_without_curvature_refuses_an_estimator():
    with pytest.raises(
        UsageError, match="muon/adagrad reads no curvature, and curvature is gauss_newton_bartlett"
    ):
        from_dict({**optimizer_preset("muon"), "curvature": "gauss_newton_bartlett"})


@pytest.mark.parametrize("model", [{"activation": "gelu"}, {"self_interaction": True}])
def test_a_curved_model_takes_any_estimator_but_the_exact_one(model):
    with pytest.raises(UsageError, match="use curvature hutchinson or gauss_newton_bartlett"):
        from_dict({**optimizer_preset("adahessian_exact"), "model": model})
    for curvature in ("hutchinson", "gauss_newton_bartlett"):
        assert (
            from_dict({**optimizer_preset("sophia"), "curvature": curvature, "model": model}).curvature
            == curvature
        )
