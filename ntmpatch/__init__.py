"""ntmpatch: IP mobility and reachability for unmodified Python programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.patch.events import EventStream, Subscription
    from ntmpatch.patch.settings import Settings
    from ntmpatch.wire.local import Event

__version__ = "0.1.0"
__all__ = ["events", "on_event", "patch_all", "unpatch_all"]


def patch_all(*, gevent: bool = True, settings: Settings | None = None) -> None:
    """Let this process's sockets reach the virtual network.

    ``gevent`` also applies gevent's own monkey patching; ``gevent=False`` leaves the program's
    concurrency alone. ``settings`` are those of the environment (``NTMPATCH_STATE``,
    ``NTMPATCH_TOKEN``, ``NTMPATCH_CONFIG``) unless given. Nothing is started before the first
    virtual socket or look-up.
    """
    from ntmpatch.patch.apply import patch_all as apply  # noqa: PLC0415  # `import ntmpatch` is light

    apply(gevent=gevent, settings=settings)


def unpatch_all() -> None:
    """Put back every object that ``patch_all`` replaced, identically."""
    from ntmpatch.patch.apply import unpatch_all as undo  # noqa: PLC0415  # as above

    undo()


def events(*kinds: str) -> EventStream:
    """What happens to this process's node from now on: an iterator that blocks for the next event.

    ``kinds`` are names such as ``path_changed`` (docs/events.md has all); without, every kind. The
    process has to be patched; its node is found or started as for a socket. OSError ENETDOWN if
    there is none, also later, when it has gone. ValueError: no such kind.
    """
    from ntmpatch.patch.events import events as follow  # noqa: PLC0415  # as above

    return follow(*kinds)


def on_event(callback: Callable[[Event], object], *kinds: str) -> Subscription:
    """Call ``callback`` with each event, in a thread of its own, until that is closed.

    Events wait while a callback runs. It ends when the node goes; ``kinds`` and errors are as of
    ``events``.
    """
    from ntmpatch.patch.events import on_event as subscribe  # noqa: PLC0415  # as above

    return subscribe(callback, *kinds)
