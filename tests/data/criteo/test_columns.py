"""The dense features that a model reads."""

import numpy as np

from dlrm_adahessian.data.criteo.columns import COLUMN_NAMES, CRITEO, INTEGER_NAMES, TOKEN_NAMES, CriteoBlock


def test_columns_are_named_as_published() -> None:
    assert COLUMN_NAMES[:2] == ("label", "I1")
    assert COLUMN_NAMES[-1] == "C26"
    assert (len(INTEGER_NAMES), len(TOKEN_NAMES), len(COLUMN_NAMES)) == (13, 26, 40)
    assert (*CRITEO.dense_names, *CRITEO.features) == COLUMN_NAMES[1:]


def test_integers_become_logarithms() -> None:
    integers = np.array([[0, 1, -1, -(2**63), 2**63 - 1, 4095, 4096, 10**9, 2, 3, 4, 5, 6]])
    expected = [np.log1p(max(float(x), 0.0)) for x in integers[0].tolist()]
    block = CriteoBlock(labels=np.zeros(1), integers=integers, tokens=np.zeros((1, 26)), missing=np.zeros(1))
    assert np.allclose(block.dense[0], expected, rtol=2**-23, atol=0)
    assert block.dense.dtype == np.float32
    assert block.dense[0, :4].tolist() == [0, np.float32(np.log(2)), 0, 0]
