"""Figures of derivatives against autograd and NumPy, and the steps at which they are computed."""

import numpy as np
import pytest
import torch

from dlrm_adahessian.config import from_dict
from dlrm_adahessian.curvature.base import Derivatives
from dlrm_adahessian.data.loader import Batch, make_batch
from dlrm_adahessian.data.rows import Bags, Features
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.model.config import DLRMConfig
from dlrm_adahessian.model.dlrm import Head, flatten_parameters_
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.train.figures import StepFigures, norms_by_layer, rows_touched

LR = {"dense": 0.5, "rows": 0.25}


@pytest.fixture(autouse=True)
def alone():
    with init_process_group():
        yield


def batch_of(ids: np.ndarray, bags: tuple[Bags, ...] = (), samples: int = 4) -> Batch:
    names = [f"C{i}" for i in range(ids.shape[1] + len(bags))]
    features = Features(dense=np.zeros((samples, 2), np.float32), ids=ids.astype(np.int32), bags=bags)
    return make_batch(names, features, np.zeros(samples, np.int8))


def test_norms_are_those_of_the_gradients_of_each_linear_module():
    generator = torch.Generator().manual_seed(0)
    cfg = DLRMConfig(embedding_dim=4, bottom=(6,), top=(5,))
    head = Head(cfg, num_dense=3, num_features=2, generator=generator, dtype=torch.float64)
    flatten_parameters_(head)
    dense, pooled = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 2, 4, dtype=torch.float64)
    grads = torch.autograd.grad(head(dense, pooled).square().sum(), list(head.parameters()))
    found = norms_by_layer(head, torch.cat([grad.reshape(-1) for grad in grads]))
    layers = [name for name, module in head.named_modules() if isinstance(module, torch.nn.Linear)]
    assert list(found) == layers == ["bottom.0", "bottom.2", "top.0", "top.2"]
    for layer, (weight, bias) in zip(layers, zip(grads[::2], grads[1::2], strict=True), strict=True):
        expected = np.hypot(np.linalg.norm(weight.numpy()), np.linalg.norm(bias.numpy()))
        assert found[layer] == pytest.approx(expected, rel=1e-12)


def test_a_row_counts_once_however_often_it_is_looked_up_and_in_each_table_anew():
    bags = Bags(values=np.array([7, 7, 1, 1, 2, 3], np.int32), offsets=np.array([0, 2, 2, 3, 6]))
    assert rows_touched(batch_of(np.array([[1, 1], [1, 2], [3, 1], [1, 1]]), (bags,))) == 2 + 2 + 4
    assert rows_touched(batch_of(np.zeros((4, 0)))) == 0


class _State:
    """A head, and an optimizer whose first entry is floored."""

    def __init__(self) -> None:
        cfg = DLRMConfig(embedding_dim=2, bottom=(), top=())
        self.head = Head(cfg, num_dense=2, num_features=1, generator=torch.Generator().manual_seed(0))
        self.size = len(flatten_parameters_(self.head))
        self.dense_optimizer = self

    def floored(self, grad: torch.Tensor, curvature: torch.Tensor, *, samples: float) -> torch.Tensor:
        assert samples == 4
        return torch.arange(len(grad)) == 0


@pytest.mark.parametrize(("every", "of_curvature"), [(100, 8), (8, 8), (10, 1), (4, 10)])
def test_each_logged_step_has_its_figures_and_the_curvature_of_the_last_step_with_one(every, of_curvature):
    last, state, batch = 237, _State(), batch_of(np.array([[0], [1], [2], [2]]))
    preset = {**optimizer_preset("adahessian"), "optimizer": "adahessian", "curvature_every": of_curvature}
    config = from_dict({**preset, "log_every": every})
    grad, logged, curved = torch.ones(state.size), [], []
    for step in range(1, last + 1):
        curvature = grad * step if (step - 1) % of_curvature == 0 else None
        loss, logits = torch.zeros(()), torch.zeros(4)
        figures = StepFigures(config, state, batch, step, last, LR)
        figures(Derivatives(loss=loss, logits=logits, grad=grad, pooled_grad=grad, curvature=curvature))
        if "grad_norm" in figures.values:
            logged.append(step)
            assert figures.values["lr"] == LR
            assert figures.values["rows_touched"] == 3
        if "curvature_norm" in figures.values:
            curved.append(step)
            assert figures.values["floored_share"] == 1 / state.size
    assert logged == sorted({*range(1, 21), *range(every, last, every), last})
    assert curved == sorted({step - (step - 1) % of_curvature for step in logged})
