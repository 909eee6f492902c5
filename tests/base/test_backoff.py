"""Waiting times grow to a bound, spread, and begin again after a success."""

from __future__ import annotations

import random

from ntmpatch.base.backoff import Backoff


def test_grows_to_the_maximum_and_is_spread_below_it() -> None:
    backoff = Backoff(initial=1, maximum=10, rng=random.Random(1), jitter=0.25)
    for bound in (1, 2, 4, 8, 10, 10, 10):
        assert 0.75 * bound <= backoff.next_interval() <= bound
    backoff.reset()
    assert backoff.next_interval() <= 1


def test_two_who_failed_together_come_back_apart() -> None:
    first, second = (Backoff(initial=1, maximum=10, rng=random.Random(seed)) for seed in (1, 2))
    assert first.next_interval() != second.next_interval()
