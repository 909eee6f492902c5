"""A party's blocking jobs, in threads of their own; what comes of them is told in the hub.

gevent's pool would do but for two things: it blocks whoever hands it more jobs than it has threads,
and the hub must never be blocked; and what concerns the store is best done by one thread, all that
waits at once in one transaction (group commit).
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import gevent
from gevent import monkey

from ntmpatch.base.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ntmpatch.signalling.effects import Work

MAX_THREADS = 8
"""For jobs that do not touch the store: look-ups, which mostly wait for others."""
MAX_GROUP = 128
"""Jobs whose writes become durable together, at most."""

# Real ones, even in a process whose `threading` is gevent's: see runtime/hub.py.
_start_new_thread: Callable[..., int] = monkey.get_original("_thread", "start_new_thread")
_allocate_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")
_SimpleQueue: Callable[[], Any] = monkey.get_original("queue", "SimpleQueue")

log = logging.getLogger("ntmpatch.jobs")

Outcome: TypeAlias = "tuple[Work, Any]"
"""A job, and its result or the exception that it raised."""


class Jobs:
    """``on_done(outcomes)`` runs in the hub, with as many jobs as have ended since.

    Jobs that are ``stored`` run in order, in one thread, inside ``group()``: they have ended when
    that has, and have failed if that fails. Threads are made when they are first needed.
    """

    def __init__(
        self,
        on_done: Callable[[list[Outcome]], None],
        group: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._on_done = on_done
        self._group = group
        self._stored: Any = None
        self._others: Any = None
        self._threads = 0
        self._under_way = 0
        self._done: deque[Outcome] = deque()
        self._lock = _allocate_lock()
        self._wake: Any = gevent.get_hub().loop.async_()
        self._wake.start(self._deliver)

    def submit(self, job: Work) -> None:
        """Run a job soon; returns at once."""
        queue = self._queue_of_store() if job.stored else self._queue_of_others()
        if queue is not None:
            queue.put(job)
        else:
            error = UnavailableError(f"no thread can be started for {job.name or 'a job'}")
            self._tell([(job, error)])

    def close(self) -> None:
        """Tell of nothing any more; threads end when their jobs have."""
        with self._lock:
            wake, self._wake = self._wake, None
        if wake is None:
            return
        wake.close()
        if self._stored is not None:
            self._stored.put(None)
        for _ in range(self._threads):
            self._others.put(None)

    # --- in the hub --------------------------------------------------------------------

    def _queue_of_store(self) -> Any:
        if self._stored is None:
            queue = _SimpleQueue()
            if _started(self._serve_store, queue):
                self._stored = queue
        return self._stored

    def _queue_of_others(self) -> Any:
        if self._others is None:
            self._others = _SimpleQueue()
        self._under_way += 1
        if self._threads < min(self._under_way, MAX_THREADS):
            self._threads += _started(self._serve_others, self._others)
        return self._others if self._threads else None

    def _deliver(self) -> None:
        outcomes = []
        while self._done:
            outcomes.append(self._done.popleft())
        self._under_way -= sum(1 for job, _ in outcomes if not job.stored)
        if outcomes:
            self._on_done(outcomes)

    # --- in the threads ----------------------------------------------------------------

    def _serve_others(self, queue: Any) -> None:
        while (job := queue.get()) is not None:
            self._tell([(job, _attempt(job))])

    def _serve_store(self, queue: Any) -> None:
        while (job := queue.get()) is not None:
            jobs = [job]
            # What is asked for meanwhile waits for the next group. (get_nowait would raise.)
            for _ in range(min(queue.qsize(), MAX_GROUP - 1)):
                following = queue.get()
                if following is None:
                    queue.put(None)
                    break
                jobs.append(following)
            self._tell(self._run_group(jobs))

    def _run_group(self, jobs: list[Work]) -> list[Outcome]:
        try:
            with self._group():
                return [(job, _attempt(job)) for job in jobs]
        except Exception as error:  # the transaction of all: nothing of them is durable
            log.warning("a transaction of %d jobs failed: %s", len(jobs), error)
            return [(job, error) for job in jobs]

    def _tell(self, outcomes: Iterable[Outcome]) -> None:
        self._done.extend(outcomes)
        with self._lock:
            if self._wake is not None:
                self._wake.send()


def _started(serve: Callable[[Any], None], queue: Any) -> bool:
    """Whether a thread could be started: not when the interpreter ends, or too many run."""
    try:
        _start_new_thread(serve, (queue,))
    except RuntimeError:
        return False
    return True


def _attempt(job: Work) -> Any:
    try:
        return job.run()
    except Exception as error:
        return error
