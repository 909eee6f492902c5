"""uvloop, whose sockets and look-ups are its own, on virtual addresses and on ordinary ones."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import textwrap

import pytest

import ntmpatch
from ntmpatch.patch import surface
from ntmpatch.patch.uvloops import VirtualLoop

NAME = "a.home.example"
VIRTUAL = ("198.18.0.1", "fd12:3456:789a::1")
BLOB = os.urandom(3_000_000)


@pytest.fixture(autouse=True)
def uvloop(patched):  # noqa: ARG001  # which must come before the import, as with `ntmpatch run`
    return pytest.importorskip("uvloop")


def run(main):
    """Within 20 s, on uvloop; afterwards nothing may have been complained of."""
    complaints = []

    def complain(_, context):
        # asyncio of some versions complains of handlers that are cancelled when the loop ends.
        if not isinstance(context.get("exception"), asyncio.CancelledError):
            complaints.append(context)

    async def watched():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.set_exception_handler(complain)
        await asyncio.wait_for(main(), 20)

    sys.modules["uvloop"].run(watched())
    assert complaints == []


async def send_back(reader, writer):
    """A line with the client's address, then everything in capitals."""
    writer.write(f"{writer.get_extra_info('peername')[0]}\n".encode())
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def exchange(host, port, **options):
    """What comes back of BLOB, and which address the server saw."""
    reader, writer = await asyncio.open_connection(host, port, **options)
    assert writer.get_extra_info("peername")[1] == port
    own = writer.get_extra_info("sockname")[0]
    seen = (await reader.readline()).decode().strip()
    assert seen == own
    writer.write(BLOB)
    assert await reader.readexactly(len(BLOB)) == BLOB
    if writer.can_write_eof():
        writer.write_eof()
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    return own


def contexts(certificate, tls):
    if not tls:
        return None, None
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    return server, ssl.create_default_context(cafile=certificate[0])


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("bound", [None, "", "0.0.0.0", NAME, "198.18.0.1", [NAME, "127.0.0.1"]])
def test_streams(certificate, tls, bound):
    server_context, client_context = contexts(certificate, tls)

    async def main():
        async with await asyncio.start_server(send_back, bound, 0, ssl=server_context) as server:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                if host != "127.0.0.1":
                    own = await exchange(NAME, port, ssl=client_context, family=listener.family)
                    assert own in VIRTUAL
                if host in ("0.0.0.0", "127.0.0.1") and not tls:
                    assert await exchange("127.0.0.1", port) == "127.0.0.1"
        assert server.sockets == ()
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(NAME, port, family=socket.AF_INET)

    run(main)


@pytest.mark.parametrize("host", ["0.0.0.0", NAME])
def test_server_on_a_socket_that_was_bound_before(host):
    async def main():
        sock = socket.create_server((host, 0))
        port = sock.getsockname()[1]
        async with await asyncio.start_server(send_back, sock=sock):
            assert await exchange(NAME, port) == "198.18.0.1"

    run(main)


def test_connection_on_a_socket_that_was_connected_before():
    async def main():
        async with await asyncio.start_server(send_back, NAME, 0, family=socket.AF_INET) as server:
            port = server.sockets[0].getsockname()[1]
            sock = socket.create_connection((NAME, port))
            reader, writer = await asyncio.open_connection(sock=sock)
            assert await reader.readline() == b"198.18.0.1\n"
            assert writer.get_extra_info("peername") == ("198.18.0.1", port)
            writer.close()
            await writer.wait_closed()

            loop = asyncio.get_running_loop()
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, (NAME, port))
                assert await loop.sock_recv(sock, 100) == b"198.18.0.1\n"
                await loop.sock_sendall(sock, b"hello")
                assert await loop.sock_recv(sock, 100) == b"hello"

    run(main)


def test_many_connections_at_once_and_no_descriptor_is_left():
    async def main():
        async with await asyncio.start_server(send_back, NAME, 0, family=socket.AF_INET) as server:
            port = server.sockets[0].getsockname()[1]
            await asyncio.gather(*(exchange(NAME, port) for _ in range(20)))
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(3):
                await asyncio.gather(*(exchange(NAME, port) for _ in range(20)))
            # Up to eight connections to the node are kept, with both ends in this process.
            assert len(os.listdir("/proc/self/fd")) <= before + 16

    run(main)


def test_failures():
    async def main():
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("198.18.0.1", 9)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection("198.18.7.7", 9), 0.05)
        with pytest.raises(socket.gaierror):
            await asyncio.open_connection("stranger.home.example", 9)
        async with await asyncio.start_server(send_back, NAME, 0, family=socket.AF_INET) as server:
            with pytest.raises(OSError, match="address already in use"):
                await asyncio.start_server(send_back, *server.sockets[0].getsockname())

    run(main)


def test_names():
    async def main():
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(NAME, 80, type=socket.SOCK_STREAM)
        assert [each[4][0] for each in found] == list(VIRTUAL)
        assert await loop.getnameinfo(("198.18.0.1", 80), socket.NI_NUMERICSERV) == (NAME, "80")
        assert (await loop.getaddrinfo("127.0.0.1", 80))[0][4] == ("127.0.0.1", 80)

    run(main)


class Endpoint(asyncio.DatagramProtocol):
    """Keeps what arrives; sends back what a stranger sends."""

    def __init__(self, sends_back=False):
        self.sends_back = sends_back
        self.arrived = asyncio.Queue()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.arrived.put_nowait((data, address))
        if self.sends_back:
            self.transport.sendto(data.upper(), address)

    def error_received(self, error):
        self.arrived.put_nowait(error)

    def connection_lost(self, error):
        self.lost.set_result(error)


@pytest.mark.parametrize("bound", ["0.0.0.0", NAME])
@pytest.mark.parametrize("way", ["connected", "unconnected", "bound", "sock"])
def test_datagrams(bound, way):
    async def main():
        loop = asyncio.get_running_loop()
        transport, server = await loop.create_datagram_endpoint(
            lambda: Endpoint(True), local_addr=(bound, 0)
        )
        address = ("198.18.0.1", transport.get_extra_info("sockname")[1])
        options = {
            "connected": {"remote_addr": (NAME, address[1])},
            "unconnected": {"family": socket.AF_INET},
            "bound": {"local_addr": ("198.18.0.1", 0)},
        }
        if way == "sock":
            options["sock"] = {"sock": socket.socket(socket.AF_INET, socket.SOCK_DGRAM)}
        own, client = await loop.create_datagram_endpoint(Endpoint, **options[way])
        target = None if way == "connected" else address
        for first in range(0, 500, 50):  # no more at once than buffers hold
            for number in range(first, first + 50):
                own.sendto(b"hello %d" % number, target)
            for number in range(first, first + 50):
                assert await client.arrived.get() == (b"HELLO %d" % number, address)
        if way == "connected":
            assert own.get_extra_info("peername") == address
        elif bound == "0.0.0.0" and way == "unconnected":
            own.sendto(b"over loopback", ("127.0.0.1", address[1]))
            assert await client.arrived.get() == (b"OVER LOOPBACK", ("127.0.0.1", address[1]))
        for each, protocol in ((own, client), (transport, server)):
            each.close()
            assert each.is_closing()
            assert await protocol.lost is None

    run(main)


def test_refused_datagrams_are_told():
    async def main():
        loop = asyncio.get_running_loop()
        transport, client = await loop.create_datagram_endpoint(
            Endpoint, remote_addr=("198.18.0.1", 9)
        )
        transport.sendto(b"hello")
        assert isinstance(await client.arrived.get(), ConnectionRefusedError)
        transport.abort()
        await client.lost

    run(main)


def test_ordinary_endpoints_are_uvloops_own():
    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Endpoint, ("127.0.0.1", 0))
        assert type(transport).__module__.startswith("uvloop")
        transport.close()
        server = await asyncio.start_server(send_back, "127.0.0.1", 0)
        assert type(server).__module__.startswith("uvloop")
        server.close()

    run(main)


def test_methods_are_those_of_the_list(uvloop):
    methods = {name for name in vars(VirtualLoop) if not name.startswith("_")}
    assert methods == set(surface.UVLOOP_METHODS)
    assert all(hasattr(uvloop.Loop.__bases__[1], name) for name in methods)


def test_cancelled_server_is_closed():
    async def main():
        server = await asyncio.start_server(send_back, NAME, 0, family=socket.AF_INET)
        forever = asyncio.ensure_future(server.serve_forever())
        await exchange(NAME, server.sockets[0].getsockname()[1])
        forever.cancel()
        with pytest.raises(asyncio.CancelledError):
            await forever
        await server.wait_closed()
        assert not server.is_serving()

    run(main)


def test_bases_are_put_back(uvloop):
    assert len(uvloop.Loop.__bases__) == 3
    ntmpatch.unpatch_all()
    assert len(uvloop.Loop.__bases__) == 2


@pytest.mark.parametrize("first", ["ntmpatch", "uvloop"])
def test_either_may_be_imported_first(nodes, first):
    """A search without an import, as programs make to see whether it is there, disturbs nothing."""
    patching = f"ntmpatch.patch_all(gevent=False, settings=Settings{tuple(nodes.settings('a'))!r})"
    lines = ["import uvloop", patching] if first == "uvloop" else [patching, "import uvloop"]
    code = """
        import asyncio, importlib.util, ntmpatch
        from ntmpatch.patch import Settings
        importlib.util.find_spec("uvloop")
        {0}
        assert "exec_module" not in vars(uvloop.__spec__.loader)
        async def main():
            loop = asyncio.get_running_loop()
            print(await loop.getaddrinfo("a.home.example", 80))
        uvloop.run(main())
    """
    code = textwrap.dedent(code).format("\n".join(lines))
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "198.18.0.1" in output
