"""Locks between processes: taken, waited for, given up, and not handed down to forked children."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from ntmpatch.runtime.locking import acquire, signature


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def test_one_holder_at_a_time(path):
    first = acquire(path)
    assert first is not None
    assert acquire(path) is None
    first.close()
    second = acquire(path)
    assert second is not None
    second.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_waiter_gets_it_when_the_holder_lets_go(path):
    holder = acquire(path)
    got = []
    waiter = threading.Thread(target=lambda: got.append(acquire(path, 60)))
    waiter.start()
    holder.close()
    waiter.join(60)
    assert got[0] is not None
    assert acquire(path) is None
    got[0].close()


def test_who_gave_up_waiting_does_not_get_it_later(path):
    holder = acquire(path)
    assert acquire(path, 0.001) is None
    holder.close()
    again = acquire(path, 60)
    assert again is not None
    again.close()


def test_a_forked_child_does_not_hold_it_on(path):
    holder = acquire(path)
    (ours, its), child = socket.socketpair(), os.fork()
    if not child:
        ours.close()
        its.send(b"forked")
        its.recv(1)
        os._exit(0)
    its.close()
    try:
        ours.recv(10)
        holder.close()
        again = acquire(path)
        assert again is not None
        again.close()
    finally:
        ours.close()
        os.waitpid(child, 0)


def test_the_holder_can_be_named(path):
    assert signature(path) is None
    holder = acquire(path)
    assert signature(path) is None
    holder.sign()
    assert signature(path) == os.getpid()
    holder.close()
