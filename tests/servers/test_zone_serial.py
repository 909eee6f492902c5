"""The serial over restarts, against RFC 1982's arithmetic."""

from __future__ import annotations

import random

import pytest

from ntmpatch.servers.direction.serial import ZoneSerial, is_later


def test_arithmetic() -> None:
    """RFC 1982, section 3.2 and the examples of section 5.2."""
    assert is_later(1, 0)
    assert is_later(44, 0)
    assert is_later(100, 44)
    assert is_later(0, 0xFFFFFFFF)
    assert not is_later(0, 0)
    assert not is_later(0xFFFFFFFF, 0)


@pytest.mark.parametrize("seed", range(5))
def test_it_only_grows(seed: int) -> None:
    """Changes at any pace, kills at any time, a clock that jumps and, at last, overflows."""
    rng = random.Random(seed)
    clock = [rng.choice([1_700_000_000.0, float((1 << 32) - 3000)])]
    stored: list[int] = []
    last: int | None = None
    state = 0
    for _ in range(30):
        kept = stored[-1] if stored else None
        serial = ZoneSerial(lambda: clock[0], stored=kept, reserve=stored.append)
        for _ in range(rng.choice([1, 10, 3000])):
            state += 1
            clock[0] += rng.choice([0.0, 0.0001, 1.0, 500.0]) if rng.random() < 0.01 else 0.0
            fresh = serial.of(state)
            assert last is None or is_later(fresh, last)
            assert serial.of(state) == fresh
            last = fresh
        clock[0] += rng.choice([-3600.0, 0.0, 1.0, 86400.0])
    assert len(stored) < 200, "not written at every change"
