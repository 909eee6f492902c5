"""The replay window: each counter once, 8128 of patience."""

from __future__ import annotations

import random

import pytest

from ntmpatch.packet.tunnel.replay import WINDOW, ReplayWindow


def test_each_counter_is_taken_once_in_any_order():
    window = ReplayWindow()
    assert [window.accept(n) for n in (0, 1, 1, 9, 8, 7, 8, 2, 9, 0)] == [
        True,
        True,
        False,
        True,
        True,
        True,
        False,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("newest", [WINDOW, WINDOW + 1, 1 << 32, (1 << 64) - 1])
def test_the_window_is_8128_wide(newest):
    window = ReplayWindow()
    assert window.accept(newest)
    assert not window.accept(newest)
    assert window.accept(newest - WINDOW)
    assert not window.accept(newest - WINDOW)
    assert not window.accept(newest - WINDOW - 1)


def test_what_left_the_window_does_not_come_back():
    window = ReplayWindow()
    assert window.accept(5)
    assert window.accept(5 + WINDOW)
    assert not window.accept(4)
    assert window.accept(6)


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_a_set_of_all_that_was_ever_seen(seed):
    rng = random.Random(seed)
    window = ReplayWindow()
    seen: set[int] = set()
    newest = -1
    for _ in range(20_000):
        if rng.random() < 0.9:
            counter = max(0, newest + rng.randrange(-40, 60))
        else:
            counter = max(0, newest + rng.randrange(-2 * WINDOW, WINDOW))
        expected = counter not in seen and newest - counter <= WINDOW
        assert window.accept(counter) is expected
        seen.add(counter)
        newest = max(newest, counter)


def test_what_it_remembers_is_bounded_by_the_window():
    window = ReplayWindow()
    for counter in range(0, 400 * WINDOW, 101):
        window.accept(counter)
    assert len(window._missing) <= 4 * WINDOW
    window.accept(1 << 60)
    assert len(window._missing) <= 4 * WINDOW
