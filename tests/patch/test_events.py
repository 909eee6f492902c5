"""Events as a program gets them, from a node in a thread of this process."""

from __future__ import annotations

import errno
import logging
import threading

import pytest

import ntmpatch
from ntmpatch.runtime.event_feed import MAX_AT_ONCE, MAX_KEPT
from ntmpatch.wire import local


def tell(nodes, *kinds, **facts):
    """Have node a tell these, and wait until it has."""
    told = threading.Event()

    def run():
        for kind in kinds:
            nodes.services["a"].feed.tell(kind, "b.home.example", **facts)
        told.set()

    nodes.thread.post(run)
    assert told.wait(5)


def test_what_happens_from_now_on_is_iterated_over_in_order(patched):
    tell(patched, local.REGISTERED)  # before: of no interest
    with ntmpatch.events() as events:
        tell(patched, local.PEER_UNREACHABLE)
        tell(
            patched, local.PATH_CHANGED, old="192.0.2.1:1", new="192.0.2.2:2 (relay)", relayed=True
        )
        first, second = next(events), next(events)
        assert (first.kind, first.fqdn) == ("peer_unreachable", "b.home.example")
        assert (second.old, second.new, second.relayed) == (
            "192.0.2.1:1",
            "192.0.2.2:2 (relay)",
            True,
        )
        assert events.lost == 0


def test_an_iterator_blocks_until_something_happens_or_it_is_closed(patched):
    events = ntmpatch.events("network_changed")
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(event.kind for event in events))
    reader.start()
    tell(patched, local.PATH_CHANGED, local.NETWORK_CHANGED)
    tell(patched, local.NETWORK_CHANGED)
    other = ntmpatch.events()
    tell(patched, local.NETWORK_CHANGED)
    assert next(other).kind == "network_changed"  # so the reader has been told as well
    events.close()
    reader.join(5)
    assert not reader.is_alive()
    assert 2 <= len(seen) <= 3
    assert set(seen) == {"network_changed"}


def test_a_slow_reader_loses_the_oldest_and_is_told_how_many(patched):
    events = ntmpatch.events()
    tell(patched, local.REGISTERED, *[local.PATH_CHANGED] * (MAX_KEPT + 9))
    kinds = [next(events).kind for _ in range(MAX_KEPT)]
    assert events.lost == 10
    assert set(kinds) == {local.PATH_CHANGED}
    tell(patched, local.PEER_GONE)
    assert next(events).kind == "peer_gone"
    assert events.lost == 10
    assert MAX_AT_ONCE < MAX_KEPT


def test_an_answer_of_the_largest_events_fits_a_record(patched):
    events = ntmpatch.events()
    long = "ö" * 10_000
    tell(patched, *[local.PATH_CHANGED] * MAX_AT_ONCE, old=long, new=long, reason=long)
    assert len(next(events).old) == 256


def test_callbacks_are_called_in_order_whatever_becomes_of_one(patched, caplog):
    called, both = [], threading.Event()

    def callback(event):
        called.append(event.kind)
        if len(called) == 1:
            raise RuntimeError("a mistake of the program's")
        both.set()

    subscription = ntmpatch.on_event(callback, "peer_unreachable", "peer_reachable")
    with caplog.at_level(logging.ERROR):
        tell(patched, local.PEER_UNREACHABLE, local.REGISTERED, local.PEER_REACHABLE)
        assert both.wait(5)
    assert called == ["peer_unreachable", "peer_reachable"]
    assert "a mistake of the program's" in caplog.text
    subscription.close()
    subscription._thread.join(5)
    assert not subscription.is_alive


@pytest.mark.usefixtures("patched")
def test_kinds_are_checked_and_a_node_is_needed():
    with pytest.raises(ValueError, match="no such kind of event: path_chnaged"):
        ntmpatch.events("path_chnaged")
    ntmpatch.unpatch_all()
    with pytest.raises(OSError) as failure:  # noqa: PT011  # the errno is what counts
        ntmpatch.events()
    assert failure.value.errno == errno.ENETDOWN
