"""Name look-ups: nodes' names by the node, all others by the system, undelayed and unchanged."""

from __future__ import annotations

import socket

import pytest

import ntmpatch
from ntmpatch.patch import Settings

pytestmark = pytest.mark.usefixtures("patched")

NAME = "b.home.example"
IPV4, IPV6 = "198.18.0.2", "fd12:3456:789a::2"


def test_getaddrinfo_answers_as_the_system_would_for_the_addresses():
    found = socket.getaddrinfo(NAME, "http", type=socket.SOCK_STREAM)
    assert found == [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (IPV4, 80)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (IPV6, 80, 0, 0)),
    ]
    assert isinstance(found[0][0], socket.AddressFamily)
    assert len(socket.getaddrinfo(NAME, None)) == 2 * len(socket.getaddrinfo("127.0.0.1", None))


@pytest.mark.parametrize(
    "spelling",
    ["B.Home.Example", "b.home.example.", b"b.home.example", bytearray(b"b.home.example")],
)
def test_every_spelling_is_the_same_name(spelling):
    found = socket.getaddrinfo(spelling, 80, socket.AF_INET, socket.SOCK_STREAM)
    assert found[0][4] == (IPV4, 80)


@pytest.mark.parametrize(
    ("family", "flags", "hosts"),
    [
        (socket.AF_INET, 0, [IPV4]),
        (socket.AF_INET6, 0, [IPV6]),
        (socket.AF_INET6, socket.AI_V4MAPPED, [IPV6]),
        (socket.AF_INET6, socket.AI_V4MAPPED | socket.AI_ALL, [IPV6, f"::ffff:{IPV4}"]),
        (0, socket.AI_ADDRCONFIG, [IPV4, IPV6]),
        (0, socket.AI_PASSIVE, [IPV4, IPV6]),
    ],
)
def test_families_and_flags(family, flags, hosts):
    found = socket.getaddrinfo(NAME, 80, family, socket.SOCK_DGRAM, 0, flags)
    assert [entry[4][0] for entry in found] == hosts


def test_canonical_name_is_in_the_first_entry_only():
    found = socket.getaddrinfo("B.HOME.EXAMPLE", 80, flags=socket.AI_CANONNAME)
    assert [entry[3] for entry in found] == [NAME] + [""] * (len(found) - 1)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("stranger.home.example", 80), socket.EAI_NONAME),
        (("later.home.example", 80), socket.EAI_AGAIN),
        ((NAME, 80, 0, 0, 0, socket.AI_NUMERICHOST), socket.EAI_NONAME),
        ((NAME, "no-such-service"), socket.EAI_SERVICE),
        ((NAME, 80, socket.AF_UNIX), socket.EAI_ADDRFAMILY),
    ],
)
def test_failures_have_the_codes_of_getaddrinfo(arguments, code):
    with pytest.raises(socket.gaierror) as caught:
        socket.getaddrinfo(*arguments)
    assert caught.value.errno == code


def test_older_lookups():
    assert socket.gethostbyname(NAME) == IPV4
    assert socket.gethostbyname_ex(NAME) == (NAME, [], [IPV4])
    assert socket.gethostbyaddr(IPV4) == (NAME, [], [IPV4])
    assert socket.gethostbyaddr(IPV6) == (NAME, [], [IPV6])
    assert socket.gethostbyaddr(NAME) == (NAME, [], [IPV4])
    assert socket.getfqdn(IPV4) == NAME
    with pytest.raises(socket.herror):
        socket.gethostbyaddr("198.18.9.9")


def test_getnameinfo():
    assert socket.getnameinfo((IPV4, 80), 0) == (NAME, "http")
    assert socket.getnameinfo((IPV6, 80, 0, 0), socket.NI_NUMERICSERV) == (NAME, "80")
    assert socket.getnameinfo((IPV4, 80), socket.NI_NUMERICHOST) == (IPV4, "http")
    assert socket.getnameinfo(("198.18.9.9", 80), 0)[0] == "198.18.9.9"
    with pytest.raises(socket.gaierror):
        socket.getnameinfo(("198.18.9.9", 80), socket.NI_NAMEREQD)


def test_connecting_with_a_name_resolves_it():
    with socket.create_server(("a.home.example", 0)) as listener, socket.socket() as client:
        client.connect(("a.home.example", listener.getsockname()[1]))
        assert client.getpeername() == listener.getsockname()
    with socket.socket() as client, pytest.raises(socket.gaierror):
        client.connect_ex(("stranger.home.example", 1))


def test_other_names_go_to_the_system_unchanged(patched):
    service = patched.services["a"]
    before = len(service.lookups)
    assert socket.getaddrinfo("localhost", 80, socket.AF_INET, socket.SOCK_STREAM)[0][4] == (
        "127.0.0.1",
        80,
    )
    assert socket.gethostbyname("127.0.0.1") == "127.0.0.1"
    assert socket.getaddrinfo(None, 80, flags=socket.AI_PASSIVE)
    for host in ("nothome.example", "home.example.org", "127.0.0.1"):
        try:
            socket.getaddrinfo(host, 80)
        except socket.gaierror:
            continue
    assert len(service.lookups) == before


def test_look_up_without_a_node_is_to_be_tried_again(tmp_path):
    ntmpatch.patch_all(
        gevent=False, settings=Settings(str(tmp_path / "nobody.sock"), ("home.example",))
    )
    try:
        with pytest.raises(socket.gaierror) as caught:
            socket.getaddrinfo(NAME, 80)
        assert caught.value.errno == socket.EAI_AGAIN
        with socket.create_server(("", 0)) as listener:
            assert type(listener) is socket.socket
    finally:
        ntmpatch.unpatch_all()
