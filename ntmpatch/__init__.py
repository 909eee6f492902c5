"""ntmpatch: IP mobility and reachability for unmodified Python programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntmpatch.patch.settings import Settings

__version__ = "0.1.0"
__all__ = ["patch_all", "unpatch_all"]


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
