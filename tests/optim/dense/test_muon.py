import math

import numpy as np
import pytest
import torch

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.optim.dense import MuonConfig
from tests.optim.dense.problem import DEEP, parameters_of, run, steps_of

pytestmark = pytest.mark.oracle


def test_muon_equals_torchs_on_hidden_matrices_and_adamw_elsewhere():
    w, grads, _, found = run(MuonConfig(lr=0.1, weight_decay=0.01, momentum=0.9), shapes=DEEP)
    parameters = parameters_of(w, DEEP)
    hidden = [parameters[i] for i in (2, 4, 6)]
    rest = [parameters[i] for i in (0, 1, 3, 5, 7, 8)]
    muon = torch.optim.Muon(hidden, lr=0.05, weight_decay=0.01, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, lr=0.05, weight_decay=0.01)
    np.testing.assert_allclose(found, steps_of([muon, adam], parameters, grads), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shapes", [[(4, 3), (4,), (1, 4), (1,)], [(5,)]])
def test_muon_without_a_hidden_matrix_is_refused(shapes):
    with pytest.raises(UsageError, match="between the first and the last, but the model has.*--model.top"):
        MuonConfig().build(torch.zeros(sum(map(math.prod, shapes))), shapes)
