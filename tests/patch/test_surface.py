"""The patched surface is what the lists say: nothing else, nothing missing, and it comes off."""

from __future__ import annotations

import importlib
import pkgutil
import socket
import ssl
import subprocess
import sys
import warnings

import pytest

import ntmpatch
from ntmpatch.patch import surface


def test_every_listed_name_exists():
    for name in (surface.SOCKET_CLASS, *surface.LOOKUPS, *surface.FOLLOWERS, *surface.C_ALIASES):
        assert hasattr(socket, name)
    for name in surface.ENTRY_POINTS:
        assert hasattr(socket.socket, name)
    for module, name in surface.REBASED_CLASSES:
        assert issubclass(getattr(importlib.import_module(module), name), object)
    for module in (*surface.STDLIB_MODULES, *surface.GEVENT_MODULES):
        importlib.import_module(module)


def test_no_module_of_the_standard_library_has_a_copy_that_is_not_listed():
    originals = {id(getattr(socket, name)) for name in surface.LOOKUPS} | {id(socket.socket)}
    found = set()
    for name in stdlib_modules():
        found |= {
            module.__name__
            for module in [sys.modules[name]]
            if any(id(value) in originals for value in vars(module).values())
        }
    # `_socket` is the C module below; what is called there is not ours to replace.
    assert found - {"_socket"} == set(surface.STDLIB_MODULES)


def test_every_subclass_in_the_standard_library_is_rebased():
    subclasses = {
        (value.__module__, value.__name__)
        for name in stdlib_modules()
        for value in vars(sys.modules[name]).values()
        if isinstance(value, type) and socket.socket in value.__bases__
    }
    assert subclasses <= set(surface.REBASED_CLASSES)


def stdlib_modules():
    """Import what can be imported of the standard library."""
    names = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(sys.stdlib_module_names - {"antigravity", "this", "idlelib", "test"}):
            if name.startswith("_") and name != "_socket":
                continue
            try:
                module = importlib.import_module(name)
            except ImportError:
                continue
            names.add(name)
            if name in ("asyncio", "http", "urllib", "xmlrpc", "multiprocessing", "logging"):
                for part in pkgutil.iter_modules(module.__path__):
                    if part.name.startswith(("_", "popen_spawn_win", "windows", "proactor")):
                        continue
                    full = f"{name}.{part.name}"
                    try:
                        importlib.import_module(full)
                    except ImportError:
                        continue
                    names.add(full)
    return names


def test_unpatching_restores_every_object_identically(nodes):
    def snapshot():
        seen = {
            (module, name): id(value)
            for module in surface.STDLIB_MODULES
            for name, value in vars(sys.modules[module]).items()
        }
        seen["bases"] = ssl.SSLSocket.__bases__
        return seen

    before = snapshot()
    ntmpatch.patch_all(gevent=False, settings=nodes.settings("a"))
    patched = snapshot()
    ntmpatch.patch_all(gevent=False, settings=nodes.settings("a"))
    assert snapshot() == patched
    changed = {key for key in before if before[key] != patched[key]}
    assert changed == {
        ("socket", "socket"),
        *(("socket", name) for name in surface.LOOKUPS),
        ("ssl", "socket"),
        "bases",
    }
    ntmpatch.unpatch_all()
    assert snapshot() == before


RESTORING = """
import importlib, sys
from ntmpatch.patch import Settings, surface
import ntmpatch

def every_name():
    seen = {}
    for module_name in {*surface.STDLIB_MODULES, *surface.GEVENT_MODULES, "gevent.monkey"}:
        module = sys.modules.get(module_name)
        if module is not None:
            seen.update({(module_name, name): id(value) for name, value in vars(module).items()})
    for module_name, name in surface.REBASED_CLASSES:
        if module_name in sys.modules:
            seen[module_name, name, "bases"] = getattr(sys.modules[module_name], name).__bases__
    seen["finders"] = list(sys.meta_path)
    if "gevent.monkey" in sys.modules:
        seen["gevent"] = list(sys.modules["gevent.events"].subscribers)
        for module, items in sys.modules["gevent.monkey"].saved.items():
            seen.update({("saved", module, name): id(value) for name, value in items.items()})
    return seen

def patch():
    ntmpatch.patch_all(gevent=False, settings=Settings("nowhere", (), ("198.18.0.0/15",)))

import socket, ssl
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("before = every_name(); patch(); during = every_name()", id="alone"),
        pytest.param(
            "for name in surface.GEVENT_MODULES: importlib.import_module(name)\n"
            "before = every_name(); patch(); during = every_name()",
            id="beside-gevent",
        ),
        pytest.param(
            "from gevent import monkey; monkey.patch_all()\n"
            "for name in surface.GEVENT_MODULES: importlib.import_module(name)\n"
            "before = every_name(); patch(); during = every_name()",
            id="after-gevent",
        ),
        pytest.param(
            "before = every_name(); patch(); during = every_name()\n"
            "ntmpatch.unpatch_all(); patch()",
            id="twice",
        ),
    ],
)
def test_unpatching_restores_every_listed_name(code):
    check = "\nntmpatch.unpatch_all()\nassert every_name() == before != during"
    subprocess.run([sys.executable, "-c", RESTORING + code + check], check=True, timeout=60)


def test_unpatching_leaves_what_gevent_alone_would_have_made():
    code = (
        RESTORING
        + """
system = {name: getattr(socket, name) for name in ("socket", *surface.LOOKUPS)}
patch()
from gevent import monkey
monkey.patch_all()
assert socket.socket.__mro__[1].__name__ == "EntryPoints"
ntmpatch.unpatch_all()
import gevent.socket
for name, value in system.items():
    assert getattr(socket, name) is getattr(gevent.socket, name), name
    assert monkey.get_original("socket", name) is value, name
"""
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_ordinary_sockets_have_the_systems_own_methods(nodes):
    system = socket.socket
    ntmpatch.patch_all(gevent=False, settings=nodes.settings("a"))
    try:
        patched = socket.socket
        assert issubclass(patched, system)
        assert issubclass(ssl.SSLSocket, patched)
        differing = {
            name
            for name in dir(system)
            if getattr(patched, name) is not getattr(system, name)
            and getattr(patched, name) != getattr(system, name)
        }
        ignored = {"__init_subclass__", "__subclasshook__", "__slots__", "__doc__"}
        ignored |= {"__firstlineno__", "__static_attributes__"}
        assert differing - ignored == set(surface.ENTRY_POINTS)
        with socket.socketpair()[0] as end, socket.socket(socket.AF_UNIX) as unix:
            assert type(end) is type(unix) is patched
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as client,
            listener.accept()[0] as connection,
        ):
            assert type(listener) is type(client) is type(connection) is patched
    finally:
        ntmpatch.unpatch_all()


@pytest.mark.usefixtures("patched")
def test_subclasses_keep_their_methods_and_attributes():
    class Counting(socket.socket):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.sent = 0

        def send(self, data, *flags):
            self.sent += len(data)
            return super().send(data, *flags)

    with socket.create_server(("a.home.example", 0)) as listener, Counting() as client:
        client.connect(listener.getsockname())
        connection, _ = listener.accept()
        with connection:
            client.send(b"four")
            assert connection.recv(10) == b"four"
            assert client.sent == 4
            assert isinstance(client, Counting)
            assert client.getpeername() == listener.getsockname()


def test_without_a_node_everything_is_ordinary(monkeypatch, tmp_path):
    monkeypatch.setenv("NTMPATCH_STATE", str(tmp_path))
    for name in ("NTMPATCH_TOKEN", "NTMPATCH_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    ntmpatch.patch_all(gevent=False)
    try:
        with socket.create_server(("", 0)) as listener:
            assert type(listener) is socket.socket
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("cam.home.example.invalid", 80)
    finally:
        ntmpatch.unpatch_all()


def test_importing_is_light():
    code = """
import sys
import ntmpatch
assert not {"socket", "logging", "dataclasses"} & set(sys.modules)
ntmpatch.patch_all(gevent=False)
heavy = {"gevent", "msgspec", "cryptography", "asyncio", "ssl", "ntmpatch.runtime"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


@pytest.mark.usefixtures("patched")
def test_protocols_that_the_stack_does_not_speak_stay_the_kernels():
    udplite = 136
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, udplite) as one:
        one.bind(("", 0))
        assert type(one) is socket.socket
        with pytest.raises(OSError, match="assign"):
            one.bind(("198.18.0.1", 0))
