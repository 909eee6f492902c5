"""Under gevent's patching: greenlets go on while sockets wait, whichever patched first."""

from __future__ import annotations

import pytest

BODY = """
import gevent, socket, time, threading, select
from gevent import monkey

turns = 0
def turn():
    global turns
    while True:
        turns += 1
        gevent.sleep(0.001)
gevent.spawn(turn)

def greenlets_run(function):
    before = turns
    result = function()
    assert turns > before, function
    return result

def raises(kind, function):
    try:
        greenlets_run(function)
    except kind as error:
        return error
    raise AssertionError(function)
"""

SOCKETS = """
assert monkey.is_module_patched("socket")
assert isinstance(socket.socket(), gevent._socket3.socket)
assert greenlets_run(lambda: socket.getaddrinfo("b.home.example", 80))

listener = socket.create_server(("a.home.example", 0))
def echo():
    while True:
        connection, peer = listener.accept()
        gevent.spawn(echo_one, connection, peer)
def echo_one(connection, peer):
    assert isinstance(connection, socket.socket)
    with connection:
        assert connection.getpeername() == peer
        while data := connection.recv(65536):
            connection.sendall(data)
gevent.spawn(echo)

blob = bytes(range(256)) * 8000
address = ("a.home.example", listener.getsockname()[1])
client = greenlets_run(lambda: socket.create_connection(address))
assert isinstance(client, socket.socket)
sender = gevent.spawn(client.sendall, blob)
received = b""
while len(received) < len(blob):
    received += client.recv(65536)
assert received == blob
sender.join()
client.settimeout(0.02)
raises(TimeoutError, lambda: client.recv(1))
client.close()
raises(ConnectionRefusedError, lambda: socket.create_connection(("198.18.0.1", 9)))
raises(TimeoutError, lambda: socket.create_connection(("198.18.7.7", 9), 0.02))

wild = socket.create_server(("", 0))
for host in ("127.0.0.1", "198.18.0.1"):
    accepted = gevent.spawn(wild.accept)
    gevent.sleep(0.01)
    with socket.create_connection((host, wild.getsockname()[1])):
        connection, peer = accepted.get(timeout=5)
        assert peer[0] == host and isinstance(connection, socket.socket)
        connection.close()

udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 0))
waiting = gevent.spawn(udp.recvfrom, 100)
gevent.sleep(0.01)
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.sendto(b"datagram", ("198.18.0.1", udp.getsockname()[1]))
assert waiting.get(timeout=5)[0] == b"datagram"
out.connect(("198.18.0.1", udp.getsockname()[1]))
udp.sendto(b"answer", out.getsockname())
assert out.recv(10) == b"answer"
"""


@pytest.mark.parametrize("order", ["ours", "gevent first", "gevent later"])
def test_sockets_wait_cooperatively(program, order):
    later = "from gevent import monkey; monkey.patch_all()"
    first = """
from ntmpatch.patch import node
settings = node.current.settings
ntmpatch.unpatch_all()
from gevent import monkey
monkey.patch_all()
ntmpatch.patch_all(gevent=False, settings=settings)
"""
    prefix = {"ours": "", "gevent first": first, "gevent later": later}[order]
    gevent = order == "ours"
    process = program(prefix + "\n" + BODY + SOCKETS + "print('done')", node="a", gevent=gevent)
    assert process.stdout.read() == "done\n"
    assert process.wait(20) == 0


def test_gevents_own_servers_and_tls(program, certificate):
    process = program(
        BODY
        + """
import ssl, gevent.server, gevent.pywsgi, urllib.request
certificate, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["REMOTE_ADDR"].encode()]

for bound in ("", "a.home.example"):
    for tls in (False, True):
        arguments = {"ssl_context": context} if tls else {}
        server = gevent.pywsgi.WSGIServer((bound, 0), application, log=None, **arguments)
        server.start()
        client = ssl.create_default_context(cafile=certificate) if tls else None
        url = "%s://a.home.example:%d/" % ("https" if tls else "http", server.server_port)
        opened = greenlets_run(lambda: urllib.request.urlopen(url, timeout=10, context=client))
        answer = opened.read()
        # gevent's servers take "" for "::", which serves IPv4 by mapped addresses.
        assert answer == (b"198.18.0.1" if bound else b"::ffff:198.18.0.1"), answer
        server.stop()

def upper(connection, peer):
    connection.sendall(connection.recv(100).upper())
server = gevent.server.StreamServer(("198.18.0.1", 0), upper)
server.start()
client = gevent.socket.create_connection(("198.18.0.1", server.server_port))
client.sendall(b"hello")
assert client.recv(10) == b"HELLO"
print("done")
""",
        *certificate,
        node="a",
        gevent=True,
    )
    assert process.stdout.read() == "done\n"
    assert process.wait(20) == 0


def test_unpatching_leaves_gevents_objects(program):
    process = program(
        """
import socket, ssl, gevent.socket
ntmpatch.unpatch_all()
assert socket.socket is gevent.socket.socket is gevent._socket3.socket
assert type(socket.socket) is type and "ntmpatch" not in repr(socket.socket.__mro__)
assert socket.getaddrinfo is gevent.socket.getaddrinfo
assert "ntmpatch" not in repr(ssl.SSLSocket.__mro__)
print("done")
""",
        node="a",
        gevent=True,
    )
    assert process.stdout.read() == "done\n"
