"""All training state, for every preset: restored from a checkpoint, and with weights against repeated samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dlrm_adahessian.checkpoint.reader import load_newest_good
from dlrm_adahessian.config import RunConfig, asdict, from_dict
from dlrm_adahessian.data.criteo.columns import CRITEO, NUM_INTEGERS, TOKEN_NAMES
from dlrm_adahessian.data.loader import Batch, make_batch
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.presets import optimizer_preset, preset_names
from dlrm_adahessian.train.state import TrainState
from dlrm_adahessian.train.step import curvature_samples, train_step
from tests.checkpoints import same_bits

pytestmark = pytest.mark.slow

NAMES = preset_names("optimizers")
ROWS, BATCH, STEPS, SAVED_AFTER = 12, 16, 14, 7


@pytest.fixture(autouse=True)
def alone():
    with init_process_group():
        yield


def small(name: str, **of_model: float) -> RunConfig:
    values = optimizer_preset(name)
    if values["optim"]["dense"]["name"] in ("shampoo", "soap"):
        pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
        values["optim"]["dense"]["precondition_every"] = 3
    if values["optim"]["dense"]["name"] == "shampoo":
        values["optim"]["dense"]["start"] = 4
    model = {"embedding_dim": 4, "bottom": [6], "top": [8], **of_model}
    values["curvature_every"] = min(values.get("curvature_every", 1), 2)
    return from_dict({**values, "optimizer": name, "model": model, "batch_size": BATCH})


def new_state(config: RunConfig) -> TrainState:
    return TrainState(config, CRITEO, [ROWS] * len(TOKEN_NAMES), torch.device("cpu"))


def batch_of(step: int) -> Batch:
    """Ids run from 0 to the step, so embedding rows appear one by one and repeat within the batch."""
    rng = np.random.default_rng(step)
    dense = rng.random((BATCH, NUM_INTEGERS), np.float32)
    ids = rng.integers(0, min(step + 1, ROWS), (BATCH, len(TOKEN_NAMES)), np.int32)
    return make_batch(
        CRITEO.features, Features(dense=dense, ids=ids), (rng.random(BATCH) < 0.3).astype(np.int8)
    )


def train(state: TrainState, config: RunConfig, steps: range) -> None:
    for step in steps:
        batch = batch_of(step)
        due = config.curvature != "none" and step % config.curvature_every == 0
        samples = BATCH // 2 if due else 0
        train_step(state, batch, curvature_samples=samples, lr_scale=0.5)


def tensors_of(state: TrainState) -> dict[str, torch.Tensor]:
    named = {**state._dense_tensors(), "parameters": state.parameters}
    named["served"] = state.dense_optimizer.served(state.parameters)
    named |= {
        f"row {k} {n}": t for k, shard in state.lookup.shards().items() for n, t in shard.tensors.items()
    }
    return named


REGULAR = {"dropout": 0.3, "l2_weights": 0.01, "l2_rows": 0.02}


@pytest.mark.parametrize(
    ("name", "of_model"), [*((name, {}) for name in NAMES), ("hybrid", REGULAR), ("adahessian", REGULAR)]
)
def test_saved_and_restored_training_continues_bit_for_bit(name, of_model, tmp_path):
    config = small(name, **of_model)
    whole = new_state(config)
    train(whole, config, range(STEPS))

    first = new_state(config)
    train(first, config, range(SAVED_AFTER))
    first.save(tmp_path, SAVED_AFTER, {}, "run")
    found = load_newest_good(tmp_path, "run")
    second = new_state(config)
    second.restore_(found)
    train(second, config, range(SAVED_AFTER, STEPS))

    expected, continued = tensors_of(whole), tensors_of(second)
    assert expected.keys() == continued.keys()
    assert [n for n in expected if not same_bits(expected[n], continued[n])] == []
    initial = tensors_of(new_state(config))
    still = [n for n in ("parameters", "row C1 weight") if same_bits(initial[n], continued[n])]
    assert still == [], "training must change all tensors"


@pytest.mark.parametrize("name", ["hybrid", "adahessian_exact"])
def test_gauss_newton_is_exact_training_where_the_two_matrices_agree(name):
    exact = replace(small(name), curvature_every=2, curvature_fraction=1.0)
    gauss_newton = replace(exact, curvature="gauss_newton")
    found, expected = (new_state(config) for config in (gauss_newton, exact))
    for state in (found, expected):
        for step in range(3):
            samples = curvature_samples(gauss_newton, step, BATCH)
            assert samples == curvature_samples(exact, step, BATCH) == (0 if step == 1 else BATCH)
            train_step(state, batch_of(step), curvature_samples=samples, lr_scale=0.5)
    found, expected = tensors_of(found), tensors_of(expected)
    assert [n for n in expected if not same_bits(expected[n], found[n])] == []


def test_a_curved_model_trains_in_an_eigenbasis_with_gauss_newton_and_not_with_hutchinson():
    config = small("hybrid")
    model = replace(config.model, activation="gelu")
    state = new_state(replace(config, model=model, curvature="gauss_newton"))
    losses = [
        train_step(state, batch_of(ROWS), curvature_samples=BATCH, lr_scale=0.5).loss for _ in range(12)
    ]
    assert losses[-1] < losses[0]
    values = {**asdict(config), "model": asdict(config)["model"] | {"activation": "gelu"}}
    with pytest.raises(UsageError, match="Use curvature gauss_newton, hutchinson"):
        from_dict(values)
    values["curvature"] = "hutchinson"
    with pytest.raises(
        UsageError, match="Use curvature exact or gauss_newton, or set optim.columns.power to 0"
    ):
        from_dict(values)
    values["optim"]["columns"]["power"] = 0.0
    with pytest.raises(
        UsageError, match="eigenbasis needs a one-pass estimator.*--curvature exact or gauss_newton"
    ):
        new_state(from_dict(values))


def test_a_model_predicts_with_what_its_optimizer_serves_and_trains_on_from_where_it_was(tmp_path):
    config = small("schedule_free")
    state = new_state(config)
    train(state, config, range(SAVED_AFTER))
    served, trained = state.dense_optimizer.served(state.parameters).clone(), state.parameters.clone()
    assert not torch.equal(served, trained)
    scored = state.score([batch_of(0)])
    assert torch.equal(state.parameters, trained)
    state.save(tmp_path, SAVED_AFTER, {}, "run")
    with torch.no_grad():
        state.parameters.copy_(served)
        batch = batch_of(0)
        logits = state.head(batch.dense, state.lookup(batch.kjt))
    np.testing.assert_allclose(scored, logits.sigmoid().numpy(), rtol=1e-6)
    saved = new_state(config)
    saved.restore_(load_newest_good(tmp_path, "run"))
    assert same_bits(saved.dense_optimizer.served(saved.parameters), served)
    assert same_bits(saved.parameters, trained)


@pytest.mark.parametrize("name", ["hybrid", "adahessian", "adam"])
def test_a_step_with_dropout_learns_with_masks_and_predicts_without(name):
    config = small(name, dropout=0.5)
    state, plain = new_state(config), new_state(small(name))
    batch, samples = batch_of(ROWS), 0 if config.curvature == "none" else BATCH
    scored = state.score([batch])
    assert same_bits(torch.from_numpy(scored), torch.from_numpy(plain.score([batch])))
    found = train_step(state, batch, curvature_samples=samples, lr_scale=0.5)
    assert found.probability.tolist() == scored.tolist()
    unmasked = train_step(plain, batch, curvature_samples=samples, lr_scale=0.5)
    assert found.loss != unmasked.loss


STEADY = [n for n in NAMES if optimizer_preset(n).get("curvature", "exact") in ("exact", "none")]
"""Presets without randomness."""


def weighted_batches(step: int) -> tuple[Batch, Batch]:
    """Return a batch with integer weights, and one that repeats each sample according to its weight."""
    rng = np.random.default_rng(step)
    dense = rng.random((BATCH, NUM_INTEGERS), np.float32)
    ids = rng.integers(0, min(step + 1, ROWS), (BATCH, len(TOKEN_NAMES)), np.int32)
    labels = (rng.random(BATCH) < 0.3).astype(np.int8)
    weights = rng.integers(0, 4, BATCH)
    features, places = Features(dense=dense, ids=ids), np.repeat(np.arange(BATCH), weights)
    weighted = make_batch(CRITEO.features, features, labels, weights=weights.astype(np.float32))
    return weighted, make_batch(CRITEO.features, features[places], labels[places])


def assert_alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # Steps amplify rounding errors of 1e-16. Entries that cancel to nearly 0 keep the absolute error of the terms.
        scale = float(tensor.abs().max()) if tensor.is_floating_point() else 0.0
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-9, atol=1e-11 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


PENALIZED = {"l2_weights": 0.01, "l2_rows": 0.02}


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "of_model"), [*((name, {}) for name in STEADY), ("hybrid", PENALIZED), ("cowclip", PENALIZED)]
)
def test_a_step_with_whole_weights_is_that_of_repeated_samples(name, of_model):
    config = small(name, **of_model)
    if (
        config.optim.dense.name == "eigenbasis"
    ):  # entries of dead units are 0, and rounding errors determine their signs
        config = replace(config, optim=replace(config.optim, dense=replace(config.optim.dense, rank=1)))
    if config.optim.dense.name == "soap":  # float32 rounding errors turn its bases
        config = replace(config, optim=replace(config.optim, dense=replace(config.optim.dense, max_dim=1)))
    weighted, repeated = (
        TrainState(config, CRITEO, [ROWS] * len(TOKEN_NAMES), torch.device("cpu"), dtype=torch.float64)
        for _ in range(2)
    )
    for step in range(9):
        due = config.curvature != "none" and step % config.curvature_every == 0
        losses = []
        for state, batch in zip((weighted, repeated), weighted_batches(step), strict=True):
            samples = batch.share.samples if due else 0
            losses.append(train_step(state, batch, curvature_samples=samples, lr_scale=0.1).loss)
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert_alike(tensors_of(weighted), tensors_of(repeated))
    initial = TrainState(config, CRITEO, [ROWS] * len(TOKEN_NAMES), torch.device("cpu"), dtype=torch.float64)
    assert not torch.equal(initial.parameters, weighted.parameters), "training must change the parameters"


@pytest.mark.parametrize("name", ["hybrid", "sophia", "adahessian", "adam"])
def test_a_batch_without_weight_is_predicted_and_updates_nothing(name):
    config = small(name)
    state = new_state(config)
    train(state, config, range(2))
    before = {name: tensor.clone() for name, tensor in tensors_of(state).items()}
    plain = batch_of(2)
    dense, labels = plain.dense.numpy(), plain.all_labels
    ids = plain.kjt.values().view(len(TOKEN_NAMES), BATCH).T.numpy()
    batch = make_batch(
        CRITEO.features, Features(dense=dense, ids=ids), labels, weights=np.zeros(BATCH, np.float32)
    )
    found = train_step(state, batch, curvature_samples=BATCH, lr_scale=0.5)
    assert (found.finite, found.loss) == (True, 0.0)
    assert found.probability.tolist() == state.score([plain]).tolist()
    after = tensors_of(state)
    assert [name for name, tensor in before.items() if not same_bits(tensor, after[name])] == []


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["hybrid", "adahessian_exact"])
def test_curvature_of_some_samples_is_that_of_their_weighted_mean(name):
    """The first half has weight 3, which its own weighted mean does not show, and the second half weight 1."""
    config = small(name)
    half = BATCH // 2
    weights = np.repeat(np.array([3, 1], np.float32), half)
    plain = batch_of(5)
    ids = plain.kjt.values().view(len(TOKEN_NAMES), BATCH).T.numpy()
    weighted = make_batch(
        CRITEO.features, Features(dense=plain.dense.numpy(), ids=ids), plain.all_labels, weights=weights
    )
    first, second = (
        train_step(new_state(config), batch, curvature_samples=half, lr_scale=0.1).derivatives
        for batch in (plain, weighted)
    )
    for part in ("curvature", "factors"):
        if getattr(first, part) is not None:
            torch.testing.assert_close(getattr(second, part), getattr(first, part), rtol=1e-5, atol=1e-9)
    # The first samples all have weight 0, so the dense part gets no curvature.
    weights[:half] = 0
    third = make_batch(
        CRITEO.features, Features(dense=plain.dense.numpy(), ids=ids), plain.all_labels, weights=weights
    )
    found = train_step(new_state(config), third, curvature_samples=half, lr_scale=0.1)
    assert found.finite
    assert found.derivatives.curvature is None
