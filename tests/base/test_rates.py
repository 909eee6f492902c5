"""Token buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ntmpatch.base.rates import TokenBucket

RATE, BURST = 10.0, 25.0


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.01, 30.0)), max_size=60))
def test_no_more_passes_than_rate_and_burst_allow(steps: list[tuple[float, float]]) -> None:
    now = 100.0
    bucket = TokenBucket(RATE, BURST, now)
    taken = 0.0
    for pause, amount in steps:
        now += pause
        if bucket.take(now, amount):
            taken += amount
        assert taken <= BURST + RATE * (now - 100.0) + 1e-6


def test_it_is_full_again_after_a_pause() -> None:
    bucket = TokenBucket(RATE, BURST, 0.0)
    assert bucket.take(0.0, BURST)
    assert not bucket.take(0.0, 0.1)
    assert not bucket.is_full(1.0)
    assert bucket.is_full(2.5)
    assert bucket.take(2.5, BURST)
    assert not bucket.take(2.0, 0.1), "a clock that goes back fills nothing"
