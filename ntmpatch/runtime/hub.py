"""The node's private native thread with its own gevent hub, and the one door into it.

A program that computes for two seconds must not lose its tunnels, so nothing of the node runs in
the application's threads, and nothing of the application in this one. The only way in is ``post``.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event
from gevent import monkey

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# The node's thread must be a real one even where the application's `threading` is gevent's.
_start_new_thread: Callable[..., int] = monkey.get_original("_thread", "start_new_thread")
_allocate_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")
_pthread_sigmask: Callable[..., Any] = signal.pthread_sigmask

log = logging.getLogger("ntmpatch.hub")


class HubThread:
    """One native thread, one hub; ``post`` is safe from any thread, all else is not.

    ``setup`` runs first, in a greenlet of the new hub; an exception it raises is raised again by
    ``start``. ``teardown`` runs last, bounded by ``stop``'s time-out.
    """

    def __init__(self, *, setup: Callable[[], None], teardown: Callable[[], None]) -> None:
        self._setup = setup
        self._teardown = teardown
        self._calls: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._wake: Any = None
        self._started = _allocate_lock()
        self._ended = _allocate_lock()
        self._failure: BaseException | None = None
        self._running = False
        self._quit: Any = None

    @property
    def running(self) -> bool:
        """Whether the thread serves calls."""
        return self._running

    def start(self) -> None:
        """Start the thread and wait until ``setup`` is done; raises what ``setup`` raised."""
        self._started.acquire()
        self._ended.acquire()
        # Signals are the application's: Python runs handlers in the main thread only, but a
        # signal taken by this thread would still interrupt its system calls. Threads inherit the
        # mask of the one that starts them.
        previous = _pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            _start_new_thread(self._main, ())
        finally:
            _pthread_sigmask(signal.SIG_SETMASK, previous)
        self._started.acquire()
        if self._failure is not None:
            raise self._failure

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Let the hub call ``function(*arguments)`` soon; returns at once."""
        self._calls.append((function, arguments))
        wake = self._wake
        if wake is not None:
            wake.send()

    def stop(self, timeout: float) -> bool:
        """Run ``teardown`` in the hub and end the thread; False if it did not end in time."""
        if not self._running:
            return True
        self.post(self._end)
        return bool(self._ended.acquire(timeout=timeout))

    def _end(self) -> None:
        self._quit.set()

    def _main(self) -> None:
        hub = gevent.get_hub()
        # An error in one greenlet is logged, never printed into the application's stderr.
        hub.exception_stream = None
        hub.handle_error = _log_error  # type: ignore[method-assign, assignment]  # gevent's own hook
        try:
            self._wake = hub.loop.async_()
            self._wake.start(self._serve)
            self._quit = gevent.event.Event()
            gevent.spawn(self._run).join()
        finally:
            self._running = False
            if self._wake is not None:
                self._wake.close()
                self._wake = None
            try:
                hub.destroy(destroy_loop=True)
            finally:
                # Last: whoever waits for the end, or for a start that failed, may let the
                # interpreter end, whose collection of the loop's watchers must not meet a loop
                # that is being destroyed here.
                if self._started.locked():
                    self._started.release()
                self._ended.release()

    def _run(self) -> None:
        try:
            self._setup()
        except BaseException as failure:  # handed to the thread that called start()
            self._failure = failure
            return
        self._running = True
        self._started.release()
        self._serve()
        self._quit.wait()
        try:
            self._teardown()
        except Exception:
            log.exception("the node did not end cleanly")

    def _serve(self) -> None:
        calls = self._calls
        while calls:
            function, arguments = calls.popleft()
            try:
                function(*arguments)
            except Exception:
                log.exception("a call into the node failed")


def _log_error(
    context: object | None,
    kind: type[BaseException] | None,
    value: BaseException | str | None,
    _traceback: TracebackType | None,
) -> None:
    if kind is None or issubclass(kind, (gevent.GreenletExit, SystemExit)):
        return
    if sys.is_finalizing():
        return
    log.error("unexpected error in %r: %s", context, value, exc_info=_exception(value))


def _exception(value: BaseException | str | None) -> BaseException | None:
    return value if isinstance(value, BaseException) else None
