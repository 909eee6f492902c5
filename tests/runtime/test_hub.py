"""The node's private thread: its door, its failures, its end."""

from __future__ import annotations

import threading
import time

import gevent
import pytest

from ntmpatch.runtime.hub import HubThread


def test_posted_calls_run_in_order_in_the_private_thread():
    seen: list[tuple[int, int]] = []
    done = threading.Event()
    thread = HubThread(setup=lambda: None, teardown=lambda: None)
    thread.start()
    for number in range(100):
        thread.post(lambda n: seen.append((n, threading.get_ident())), number)
    thread.post(done.set)
    assert done.wait(5)
    assert thread.stop(5)
    assert [number for number, _ in seen] == list(range(100))
    assert {ident for _, ident in seen} != {threading.get_ident()}
    assert not thread.running


def test_what_setup_raises_reaches_the_thread_that_started_it():
    def setup() -> None:
        raise OSError(98, "Address already in use")

    thread = HubThread(setup=setup, teardown=lambda: None)
    with pytest.raises(OSError, match="already in use"):
        thread.start()
    assert not thread.running


@pytest.mark.parametrize("fails", [False, True], ids=["stopped", "failed to start"])
def test_the_end_of_the_thread_is_told_when_the_hub_is_destroyed(fails):
    """An interpreter that ends meanwhile would collect watchers of a loop that is half gone."""
    destroyed = threading.Event()

    def setup() -> None:
        hub = gevent.get_hub()
        destroy = hub.destroy

        def destroy_slowly(**options: bool) -> None:
            time.sleep(0.05)
            destroy(**options)
            destroyed.set()

        hub.destroy = destroy_slowly
        if fails:
            raise OSError(98, "Address already in use")

    thread = HubThread(setup=setup, teardown=lambda: None)
    if fails:
        with pytest.raises(OSError, match="already in use"):
            thread.start()
    else:
        thread.start()
        assert thread.stop(5)
    assert destroyed.is_set()


def test_a_failing_call_leaves_the_hub_serving(caplog):
    done = threading.Event()
    thread = HubThread(setup=lambda: None, teardown=lambda: None)
    thread.start()
    thread.post(lambda: 1 / 0)
    thread.post(done.set)
    assert done.wait(5)
    assert thread.stop(5)
    assert "ZeroDivisionError" in caplog.text


def test_the_hub_runs_while_the_application_computes():
    """A busy application thread stalls the node for no longer than the interpreter's slices."""
    ticks: list[float] = []
    thread = HubThread(setup=lambda: None, teardown=lambda: None)
    thread.start()

    def tick() -> None:
        ticks.append(time.monotonic())
        if len(ticks) < 10:
            gevent.spawn_later(0.01, tick)

    thread.post(tick)
    while len(ticks) < 10:
        sum(range(10000))
    assert thread.stop(5)


def test_many_threads_start_and_end_without_leaving_any():
    before = threading.active_count()
    for _ in range(5):
        thread = HubThread(setup=lambda: None, teardown=lambda: None)
        thread.start()
        assert thread.stop(5)
    assert threading.active_count() == before
