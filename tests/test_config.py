"""Which optimizers, estimators and models go together."""

from dataclasses import replace

import pytest

from dlrm_adahessian.config import composed, from_dict
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.presets import optimizer_preset


def test_an_optimizer_that_reads_curvature_needs_an_estimator():
    with pytest.raises(
        UsageError,
        match="sophia/sophia reads the curvature, and curvature is none; choose one of exact, gauss_newton, hutchinson, "
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
    with pytest.raises(UsageError, match="use curvature gauss_newton, hutchinson or gauss_newton_bartlett"):
        from_dict({**optimizer_preset("adahessian_exact"), "model": model})
    for curvature in ("gauss_newton", "hutchinson", "gauss_newton_bartlett"):
        assert (
            from_dict({**optimizer_preset("sophia"), "curvature": curvature, "model": model}).curvature
            == curvature
        )


def test_checkpoints_of_constant_rates_are_the_same_whatever_the_number_of_epochs():
    one = composed({"optim": {"schedule": {"warmup": 0, "decay": "none"}}})
    three = replace(one, epochs=3)
    assert one.checkpoint_fingerprints("rows")[0] == three.checkpoint_fingerprints("rows")[0]
    assert three.fingerprint("rows") in three.checkpoint_fingerprints("rows"), "as they were saved before"
    assert one.fingerprint("rows") != three.fingerprint("rows"), "results differ"
    others = (replace(one, seed=1).checkpoint_fingerprints("rows"), one.checkpoint_fingerprints("others"))
    assert all({*one.checkpoint_fingerprints("rows")}.isdisjoint(other) for other in others)


def test_checkpoints_of_rates_that_depend_on_all_steps_are_of_one_number_of_epochs():
    one = composed({"optim": {"schedule": {"decay": "linear"}}})
    assert {*one.checkpoint_fingerprints("rows")}.isdisjoint(
        replace(one, epochs=2).checkpoint_fingerprints("rows")
    )
