"""Errors of rounded rows are within the bounds of the module, and the bounds are tight."""

import numpy as np
import pytest
import torch

from dlrm_adahessian.serving.rounding import largest_error, rounded


def rows_of_all_sizes() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20_000, 16, generator=generator)
    middle = (
        torch.randn(20_000, 1, generator=generator) * torch.rand(20_000, 1, generator=generator).mul(9).exp()
    )
    return (rows + middle) * torch.randn(20_000, 1, generator=generator).mul(6).exp()


def decoded(stored: dict[str, torch.Tensor]) -> np.ndarray:
    """Decode in float32, with the steps of the loader."""
    scale, offset = (stored[name].numpy()[:, None] for name in ("scale", "offset"))
    return stored["weight"].numpy().astype(np.float32) * scale + offset


def test_int8_is_off_by_at_most_half_a_step_and_what_float32_rounds():
    rows = rows_of_all_sizes()
    error = np.abs(decoded(rounded(rows, "int8")).astype(np.float64) - rows.double().numpy())
    exact = rows.double().numpy()
    step = (exact.max(1) - exact.min(1)) / 255
    bound = step / 2 + 2.0**-21 * np.abs(exact).max(1)
    assert (error.max(1) <= bound).all()
    assert (error.max(1) / bound).max() > 0.99
    assert largest_error(rows, "int8") == pytest.approx(bound.max(), rel=1e-12)


def test_int8_uses_all_codes_of_each_row():
    codes = rounded(torch.randn(1000, 16), "int8")["weight"]
    assert (codes.amin(1) == -128).all()
    assert (codes.amax(1) == 127).all()


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7e-5])
def test_a_row_without_a_range_is_exact_in_int8(value):
    rows = torch.full((3, 4), value)
    np.testing.assert_array_equal(decoded(rounded(rows, "int8")), rows.numpy())


def test_bf16_is_off_by_at_most_an_eighth_significant_bit():
    rows = rows_of_all_sizes()
    stored = rounded(rows, "bf16")["weight"]
    error = (stored.double() - rows.double()).abs()
    assert (error <= 2**-8 * rows.double().abs()).all()
    assert (error / rows.double().abs()).max() > 0.99 * 2**-8
    assert largest_error(rows, "bf16") == 2**-8 * float(rows.abs().max())


def test_fp32_is_not_copied():
    rows = torch.randn(5, 4)
    assert rounded(rows, "fp32")["weight"] is rows
    assert largest_error(rows, "fp32") == 0
