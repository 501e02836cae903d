"""The whole of what training changes, through a checkpoint, for every preset."""

import numpy as np
import pytest
import torch

from dlrm_adahessian.checkpoint.reader import load_newest_good
from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.data.criteo.columns import CRITEO, NUM_INTEGERS, TOKEN_NAMES
from dlrm_adahessian.data.loader import Batch, make_batch
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.presets import optimizer_preset, preset_names
from dlrm_adahessian.train.step import TrainState, train_step
from tests.checkpoints import same_bits

NAMES = preset_names("optimizers")
ROWS, BATCH, STEPS, SAVED_AFTER = 12, 16, 14, 7


@pytest.fixture(autouse=True)
def alone():
    with init_process_group():
        yield


def small(name: str) -> RunConfig:
    values = optimizer_preset(name)
    if values["optim"]["dense"]["name"] in ("shampoo", "soap"):
        pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
        values["optim"]["dense"]["precondition_every"] = 3
    if values["optim"]["dense"]["name"] == "shampoo":
        values["optim"]["dense"]["start"] = 4
    model = {"embedding_dim": 4, "bottom": [6], "top": [8]}
    values["curvature_every"] = min(values.get("curvature_every", 1), 2)
    return from_dict({**values, "optimizer": name, "model": model, "batch_size": BATCH})


def new_state(config: RunConfig) -> TrainState:
    return TrainState(config, CRITEO, [ROWS] * len(TOKEN_NAMES), torch.device("cpu"))


def batch_of(step: int) -> Batch:
    """Ids from 0 to the step: rows come in one by one, and repeat within the batch."""
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


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_restored_training_continues_bit_for_bit(name, tmp_path):
    config = small(name)
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
    assert still == [], "training must have moved something"


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
