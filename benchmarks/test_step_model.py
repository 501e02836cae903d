"""The step model on several ranks: the fit recovers known coefficients, and the number of bytes is correct."""

import pytest

from benchmarks.step_model import Point, Traffic, fitted, messages

TRAFFIC = Traffic(features=26, dim=16, parameters=475_985, row_curvature=1, dense_curvature=1 / 8)


@pytest.mark.oracle
def test_a_fit_finds_the_coefficients_that_made_the_times():
    fixed, per_sample, per_message, per_byte, cores = 2e-3, 1e-5, 3e-4, 1e-9, 2

    def point(ranks: int, samples: int) -> Point:
        sent = TRAFFIC.sent_bytes(ranks, samples)
        share = max(1, ranks / cores)
        alone = fixed + per_sample * samples + per_message * messages(ranks) + per_byte * sent
        return Point(ranks=ranks, samples=samples, sent_bytes=sent, seconds=share * alone)

    model = fitted([point(ranks, samples) for ranks in (1, 2) for samples in (256, 1024, 8192)], cores)
    found = (model.fixed, model.per_sample, model.per_message, model.per_byte)
    assert found == pytest.approx((fixed, per_sample, per_message, per_byte), rel=1e-6)
    larger = point(4, 2048)
    assert model.seconds(4, 2048, larger.sent_bytes) == pytest.approx(larger.seconds, rel=1e-6)


def test_bytes_are_those_counted_at_the_loopback_interface():
    # docs/scaling.md: two and four ranks together, a batch of 4,096, dense curvature at every step; the rest is TCP.
    every_step = Traffic(features=26, dim=16, parameters=475_985, row_curvature=1, dense_curvature=1)
    assert 2 * every_step.sent_bytes(2, 2048) == pytest.approx(15.37e6, rel=5e-3)
    assert 4 * every_step.sent_bytes(4, 1024) == pytest.approx(34.52e6, rel=5e-3)


def test_curvature_adds_little_to_what_is_sent_at_the_default_schedule():
    plain = Traffic(features=26, dim=16, parameters=475_985, row_curvature=0, dense_curvature=0)
    for ranks in (2, 8, 128):
        ratio = TRAFFIC.sent_bytes(ranks, 2048) / plain.sent_bytes(ranks, 2048)
        assert 1 < ratio < 1.1
