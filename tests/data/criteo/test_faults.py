"""Messages about bad lines."""

from dlrm_adahessian.data.criteo.faults import Fault


def test_a_message_shows_the_beginning_of_a_long_value_only() -> None:
    assert str(Fault(1, "a rule", b"x" * 40)) == f"a rule, found '{'x' * 40}'"
    assert str(Fault(1, "a rule", b"x" * 41)) == f"a rule, found '{'x' * 40}'..."
