"""What a model reads of a row."""

import numpy as np

from dlrm_adahessian.data.schema import COLUMN_NAMES, INTEGER_NAMES, TOKEN_NAMES, dense_features


def test_columns_are_named_as_published() -> None:
    assert COLUMN_NAMES[:2] == ("label", "I1")
    assert COLUMN_NAMES[-1] == "C26"
    assert (len(INTEGER_NAMES), len(TOKEN_NAMES), len(COLUMN_NAMES)) == (13, 26, 40)


def test_integers_become_logarithms() -> None:
    integers = np.array([[0, 1, -1, -(2**63), 2**63 - 1, 4095, 4096, 10**9, 2, 3, 4, 5, 6]])
    expected = [np.log1p(max(float(x), 0.0)) for x in integers[0].tolist()]
    assert np.allclose(dense_features(integers)[0], expected, rtol=2**-23, atol=0)
    assert dense_features(integers).dtype == np.float32
    assert dense_features(integers)[0, :4].tolist() == [0, np.float32(np.log(2)), 0, 0]
