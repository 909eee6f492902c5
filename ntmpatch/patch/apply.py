"""Putting the patched surface in place, keeping it there, and taking it back."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from ntmpatch.patch import classes, node, surface
from ntmpatch.patch.entry import EntryPoints
from ntmpatch.patch.naming import make_lookups

if TYPE_CHECKING:
    from ntmpatch.patch.settings import Settings

_replaced: list[tuple[Any, str, Any, Any]] = []
"""Object, attribute, what was there and what we put there, in order."""

_ours: set[int] = set()
_direct_getaddrinfo: Any = None
_subscribed = False
_uvloop_watcher: _UvloopWatcher | None = None


def patch_all(*, gevent: bool = True, settings: Settings | None = None) -> None:
    """Let this process's sockets reach the virtual network; calling it again changes nothing.

    ``gevent`` also applies gevent's own monkey patching, which ``unpatch_all`` cannot take back.
    ``settings`` are those of the environment and the state directory unless given.
    """
    if gevent:
        from gevent import monkey  # noqa: PLC0415  # only if it is asked for

        if not monkey.is_module_patched("socket"):
            monkey.patch_all()
    if settings is not None or not _replaced:
        node.configure(settings)
    _apply()
    _follow_gevent()
    _follow_uvloop()


def unpatch_all() -> None:
    """Put back every object that ``patch_all`` replaced, identically.

    Sockets that are virtual stay so until they are closed.
    """
    for owner, name, original, ours in reversed(_replaced):
        if name == "__bases__":
            if owner.__bases__ == ours:
                owner.__bases__ = original
        elif getattr(owner, name, None) is ours:
            setattr(owner, name, original)
    _forget_in_gevent()
    _replaced.clear()
    _ours.clear()
    _leave_gevent()
    _leave_uvloop()
    node.disable()


def is_patched() -> bool:
    """Whether the surface is in place."""
    return bool(_replaced)


def _apply() -> None:
    """Replace whatever is not ours yet."""
    global _direct_getaddrinfo  # noqa: PLW0603  # there is one standard library
    socket = importlib.import_module("socket")
    present = socket.socket
    if id(present) in _ours:
        return
    node.current.new_lock()
    if _direct_getaddrinfo is None:
        monkey = sys.modules.get("gevent.monkey")
        _direct_getaddrinfo = (
            monkey.get_original("socket", "getaddrinfo")
            if monkey is not None
            else socket.getaddrinfo
        )
    system = {name: getattr(socket, name) for name in surface.LOOKUPS}
    replacements: dict[int, Any] = {
        id(present): classes.make_patched(present, EntryPoints),
    }
    for name, function in make_lookups(system, _direct_getaddrinfo).items():
        replacements[id(system[name])] = function
    _ours.update(map(id, replacements.values()))
    modules: tuple[str, ...] = surface.STDLIB_MODULES
    if present.__module__.startswith("gevent"):
        modules += surface.GEVENT_MODULES
    for module_name in modules:
        module = sys.modules.get(module_name)
        if module is None:
            continue  # whoever imports it later finds ours in `socket`
        for name, value in list(vars(module).items()):
            ours = replacements.get(id(value))
            if ours is not None and not name.startswith("__"):
                _replaced.append((module, name, value, ours))
                setattr(module, name, ours)
    _rebase(present, replacements[id(present)])


def _rebase(present: type, patched: type) -> None:
    for module_name, class_name in surface.REBASED_CLASSES:
        cls = getattr(sys.modules.get(module_name), class_name, None)
        if isinstance(cls, type) and present in cls.__bases__:
            bases = tuple(patched if base is present else base for base in cls.__bases__)
            _replaced.append((cls, "__bases__", cls.__bases__, bases))
            cls.__bases__ = bases


def _follow_gevent() -> None:
    """Be told when the application applies gevent's patching after us, which undoes ours."""
    global _subscribed  # noqa: PLW0603  # once a process
    if _subscribed:
        return
    if "gevent.monkey" in sys.modules:
        _subscribe()
    else:
        sys.meta_path.insert(0, _GeventWatcher())
    _subscribed = True


def _subscribe() -> None:
    from gevent import events  # noqa: PLC0415  # the application has imported it

    events.subscribers.append(_gevent_did_something)


def _gevent_did_something(event: object) -> None:
    if _replaced and type(event).__name__ in (
        "GeventDidPatchModuleEvent",
        "GeventDidPatchBuiltinModulesEvent",
    ):
        name = getattr(event, "module_name", None)
        if name in (None, "socket", "ssl"):
            _apply()


def _forget_in_gevent() -> None:
    """What gevent took for the system's own, and keeps for `get_original`, may have been ours."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return
    originals = {id(ours): original for _, _, original, ours in _replaced}
    for items in monkey.saved.values():
        for name in list(items):
            while id(items[name]) in originals:
                items[name] = originals[id(items[name])]


def _leave_gevent() -> None:
    global _subscribed  # noqa: PLW0603  # once a process
    sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, _GeventWatcher)]
    events = sys.modules.get("gevent.events")
    if events is not None and _gevent_did_something in events.subscribers:
        events.subscribers.remove(_gevent_did_something)
    _subscribed = False


class _GeventWatcher:
    """A finder that finds nothing, and sees ``gevent.monkey`` being imported."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name == "gevent.monkey":
            sys.meta_path.remove(self)
            _subscribe()


def _follow_uvloop() -> None:
    """Patch uvloop's loop, now or when it is imported: it has sockets and look-ups of its own."""
    global _uvloop_watcher  # noqa: PLW0603  # once a process
    if "uvloop" in sys.modules:
        _patch_uvloop()
    elif _uvloop_watcher is None:
        _uvloop_watcher = _UvloopWatcher()
        sys.meta_path.insert(0, _uvloop_watcher)


def _patch_uvloop() -> None:
    from ntmpatch.patch.uvloops import VirtualLoop  # noqa: PLC0415  # only where it is used

    loop = sys.modules["uvloop"].Loop
    if _replaced and VirtualLoop not in loop.__bases__:
        bases = (VirtualLoop, *loop.__bases__)
        _replaced.append((loop, "__bases__", loop.__bases__, bases))
        loop.__bases__ = bases


def _leave_uvloop() -> None:
    global _uvloop_watcher  # noqa: PLW0603  # once a process
    if _uvloop_watcher in sys.meta_path:
        sys.meta_path.remove(_uvloop_watcher)
    _uvloop_watcher = None


class _UvloopWatcher:
    """A finder that lets the others find ``uvloop``, to patch it once it has been executed."""

    def __init__(self) -> None:
        self._is_asking = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:  # noqa: ARG002
        if name != "uvloop" or self._is_asking:
            return None
        from importlib.util import find_spec  # noqa: PLC0415  # only where it is used

        self._is_asking = True
        try:
            spec = find_spec(name)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader

            def exec_module(module: object) -> None:
                del loader.exec_module
                loader.exec_module(module)
                _patch_uvloop()

            loader.exec_module = exec_module
        return spec
