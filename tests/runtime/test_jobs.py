"""Blocking jobs beside the hub: as many as come at once, and the store's in one transaction."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event
import pytest
from sqlalchemy import create_engine, event, text

from ntmpatch.base.errors import UnavailableError
from ntmpatch.runtime.batching import GroupedEngine
from ntmpatch.runtime.database import open_database
from ntmpatch.runtime.jobs import Jobs
from ntmpatch.signalling.effects import Work

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Collected:
    """What jobs came to, until there are ``count``."""

    def __init__(self, count: int) -> None:
        self.outcomes: dict[str, Any] = {}
        self.order: list[str] = []
        self._count = count
        self._all = gevent.event.Event()

    def __call__(self, outcomes: list[tuple[Work, Any]]) -> None:
        for job, outcome in outcomes:
            self.outcomes[job.name] = outcome
            self.order.append(job.name)
        if len(self.order) >= self._count:
            self._all.set()

    def wait(self) -> None:
        assert self._all.wait(30)


def from_the_hub(call: Callable[[], None]) -> None:
    """Call from an event's callback, where nothing may block."""
    gevent.get_hub().loop.run_callback(call)


def test_more_jobs_than_threads_from_an_events_callback() -> None:
    collected = Collected(200)
    jobs = Jobs(collected)
    may_end = threading.Event()

    def submit() -> None:
        for number in range(200):
            jobs.submit(Work(lambda: may_end.wait(30), str(number)))
        may_end.set()

    from_the_hub(submit)
    collected.wait()
    assert collected.outcomes == {str(number): True for number in range(200)}
    jobs.close()


def test_a_closed_one_tells_nothing() -> None:
    collected = Collected(1)
    jobs = Jobs(collected)
    may_end = threading.Event()
    for stored in (False, True):
        jobs.submit(Work(lambda: may_end.wait(30), "late", stored))
    jobs.close()
    may_end.set()
    gevent.sleep(0)
    assert collected.order == []


def test_what_waits_at_once_is_one_transaction_and_one_failure_takes_nothing_else_with_it(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/grouped.db"
    engine = open_database(url)
    commits: list[int] = []
    event.listen(engine, "commit", lambda _: commits.append(1))
    grouped = GroupedEngine(engine)
    with grouped.begin() as connection:
        connection.execute(text("CREATE TABLE kept (name TEXT PRIMARY KEY)"))
    commits.clear()
    collected = Collected(6)
    jobs = Jobs(collected, grouped.group)
    has_begun, may_end = threading.Event(), threading.Event()

    def insert(name: str) -> None:
        with grouped.begin() as connection:
            connection.execute(text("INSERT INTO kept VALUES (:name)"), {"name": name})

    def twice() -> None:
        with grouped.begin() as connection:
            connection.execute(text("INSERT INTO kept VALUES ('twice')"))
            connection.execute(text("INSERT INTO kept VALUES ('a')"))

    def names() -> list[str]:
        with grouped.connect() as connection:
            return sorted(connection.scalars(text("SELECT name FROM kept")))

    def seen_by_others() -> list[str]:
        with create_engine(url).connect() as connection:
            return sorted(connection.scalars(text("SELECT name FROM kept")))

    def first() -> None:
        has_begun.set()
        may_end.wait(30)

    jobs.submit(Work(first, "first", stored=True))
    assert has_begun.wait(30)

    def submit() -> None:
        for name in ("a", "b"):
            jobs.submit(Work(lambda name=name: insert(name), name, stored=True))
        jobs.submit(Work(twice, "twice", stored=True))
        jobs.submit(Work(names, "within", stored=True))
        jobs.submit(Work(seen_by_others, "outside", stored=True))
        may_end.set()

    from_the_hub(submit)
    collected.wait()
    assert collected.order == ["first", "a", "b", "twice", "within", "outside"]
    assert "UNIQUE" in str(collected.outcomes["twice"])
    assert collected.outcomes["within"] == ["a", "b"]
    assert collected.outcomes["outside"] == []
    assert len(commits) == 2
    assert seen_by_others() == ["a", "b"]

    # A transaction that cannot be committed: all its jobs have failed, and nothing is kept.
    def refuse(_: object) -> None:
        raise OSError("the disk is full")

    event.listen(engine, "commit", refuse)
    again = Collected(1)
    failing = Jobs(again, grouped.group)
    failing.submit(Work(lambda: insert("c"), "c", stored=True))
    again.wait()
    assert str(again.outcomes["c"]) == "the disk is full"
    assert seen_by_others() == ["a", "b"]
    jobs.close()
    failing.close()


@pytest.mark.parametrize("stored", [False, True])
def test_without_threads_a_job_fails_and_the_next_one_is_tried(
    stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the interpreter ends; a callback of the hub must not raise."""

    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    collected = Collected(2)
    jobs = Jobs(collected)
    with monkeypatch.context() as patched:
        patched.setattr("ntmpatch.runtime.jobs._start_new_thread", refuse)
        jobs.submit(Work(lambda: 1, "first", stored=stored))
    jobs.submit(Work(lambda: 2, "second", stored=stored))
    collected.wait()
    assert isinstance(collected.outcomes["first"], UnavailableError)
    assert collected.outcomes["second"] == 2
    jobs.close()
