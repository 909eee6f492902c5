"""Programs of the standard library, unmodified, on virtual addresses."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import os
import selectors
import socket
import socketserver
import ssl
import threading
import urllib.request
import xmlrpc.client
import xmlrpc.server
from contextlib import contextmanager

import pytest

pytestmark = pytest.mark.usefixtures("patched")

NAME = "a.home.example"
BLOB = os.urandom(3_000_000)


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class BlobHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BLOB)))
        self.end_headers()
        self.wfile.write(BLOB)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("bound", ["", NAME])
def test_urllib_downloads_from_http_server(bound):
    with (
        serving(http.server.ThreadingHTTPServer((bound, 0), BlobHandler)) as port,
        urllib.request.urlopen(f"http://{NAME}:{port}/", timeout=20) as response,
    ):
        assert response.read() == BLOB


def test_requests_downloads_from_http_server():
    requests = pytest.importorskip("requests")
    with serving(http.server.ThreadingHTTPServer(("", 0), BlobHandler)) as port:
        assert requests.get(f"http://{NAME}:{port}/", timeout=20).content == BLOB


def test_http_client_downloads_by_ipv6_address():
    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6

    with serving(Server(("::", 0), BlobHandler)) as port:
        client = http.client.HTTPConnection("fd12:3456:789a::1", port, timeout=20)
        client.request("GET", "/")
        assert client.getresponse().read() == BLOB
        client.close()


@pytest.mark.parametrize("wrapped", ["listener", "connection"])
def test_https_knows_its_peers_by_name(certificate, wrapped):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    seen = []

    class Handler(BlobHandler):
        def do_GET(self):
            assert isinstance(self.connection, socket.socket)
            seen.append((self.connection.getpeername(), self.connection.getsockname()))
            super().do_GET()

    class Server(http.server.ThreadingHTTPServer):
        def get_request(self):
            connection, peer = super().get_request()
            if wrapped == "connection":
                connection = context.wrap_socket(connection, server_side=True)
            return connection, peer

    server = Server(("", 0), Handler)
    if wrapped == "listener":
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server) as port:
        client_context = ssl.create_default_context(cafile=certificate[0])
        client = http.client.HTTPSConnection(NAME, port, context=client_context, timeout=20)
        client.request("GET", "/")
        assert isinstance(client.sock, ssl.SSLSocket)
        assert isinstance(client.sock, socket.socket)
        names = (client.sock.getsockname(), client.sock.getpeername())
        assert names[1] == ("198.18.0.1", port)
        assert client.getresponse().read() == BLOB
        client.close()
        assert seen == [names]


def test_tls_socket_connects_itself_and_fails_with_linux_errnos(certificate):
    context = ssl.create_default_context(cafile=certificate[0])
    with (
        context.wrap_socket(socket.socket(), server_hostname=NAME) as client,
        pytest.raises(ConnectionRefusedError),
    ):
        client.connect((NAME, 9))
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(*certificate)
    with socket.create_server((NAME, 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with server_context.wrap_socket(connection, server_side=True) as tls:
                tls.sendall(tls.recv(100).upper())

        thread = threading.Thread(target=serve)
        thread.start()
        with context.wrap_socket(socket.socket(), server_hostname=NAME) as client:
            client.connect(listener.getsockname())
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"
            assert client.getpeername() == listener.getsockname()
        thread.join()


@pytest.mark.parametrize("kind", [socketserver.ThreadingTCPServer, socketserver.ForkingTCPServer])
def test_socketserver_over_tcp(kind):
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline().upper())

    with (
        serving(kind(("198.18.0.1", 0), Handler)) as port,
        socket.create_connection((NAME, port)) as client,
    ):
        client.sendall(b"line\n")
        assert client.makefile().readline() == "LINE\n"


def test_socketserver_over_udp():
    class Handler(socketserver.DatagramRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.read().upper())

    with (
        serving(socketserver.ThreadingUDPServer(("", 0), Handler)) as port,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(5)
        client.sendto(b"datagram", (NAME, port))
        assert client.recvfrom(100) == (b"DATAGRAM", ("198.18.0.1", port))


def test_xmlrpc_calls():
    server = xmlrpc.server.SimpleXMLRPCServer((NAME, 0), logRequests=False)
    server.register_function(pow)
    with serving(server) as port, xmlrpc.client.ServerProxy(f"http://{NAME}:{port}") as proxy:
        assert proxy.pow(2, 9) == 512


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("bound", ["", NAME, None])
def test_asyncio_streams(certificate, tls, bound):
    server_context = client_context = None
    if tls:
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(*certificate)
        client_context = ssl.create_default_context(cafile=certificate[0])

    async def serve(reader, writer):
        assert writer.get_extra_info("peername")[0] in ("198.18.0.1", "fd12:3456:789a::1")
        writer.write(await reader.readexactly(len(BLOB)))
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, bound, 0, ssl=server_context)
        async with server:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                family = listener.family
                reader, writer = await asyncio.open_connection(
                    NAME, port, ssl=client_context, family=family
                )
                assert writer.get_extra_info("peername")[1] == port
                writer.write(BLOB)
                assert await reader.readexactly(len(BLOB)) == BLOB
                assert host
                writer.close()
                await writer.wait_closed()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_asyncio_failures():
    async def main():
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("198.18.0.1", 9)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection("198.18.7.7", 9), 0.05)
        with pytest.raises(socket.gaierror):
            await asyncio.open_connection("stranger.home.example", 9)

    asyncio.run(main())


def test_asyncio_datagrams():
    async def main():
        loop = asyncio.get_running_loop()
        answers = asyncio.Queue()

        class Server(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport

            def datagram_received(self, data, address):
                self.transport.sendto(data.upper(), address)

        class Client(asyncio.DatagramProtocol):
            def datagram_received(self, data, address):
                answers.put_nowait((data, address))

            def error_received(self, error):
                answers.put_nowait(error)

        server, _ = await loop.create_datagram_endpoint(Server, local_addr=("0.0.0.0", 0))
        port = server.get_extra_info("sockname")[1]
        client, _ = await loop.create_datagram_endpoint(Client, remote_addr=(NAME, port))
        client.sendto(b"hello")
        assert await answers.get() == (b"HELLO", ("198.18.0.1", port))
        refused, _ = await loop.create_datagram_endpoint(Client, remote_addr=("198.18.0.1", 9))
        refused.sendto(b"hello")
        assert isinstance(await answers.get(), ConnectionRefusedError)
        for transport in (server, client, refused):
            transport.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_selectors_echo_server():
    with socket.create_server(("", 0)) as listener, selectors.DefaultSelector() as selector:
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)

        def serve():
            echoed = 0
            while echoed < 5:
                for key, _ in selector.select(5):
                    if key.fileobj is listener:
                        connection, _ = listener.accept()
                        connection.setblocking(False)
                        selector.register(connection, selectors.EVENT_READ)
                    else:
                        data = key.fileobj.recv(100)
                        if data:
                            key.fileobj.send(data)
                        else:
                            selector.unregister(key.fileobj)
                            key.fileobj.close()
                            echoed += 1

        thread = threading.Thread(target=serve)
        thread.start()
        for host in (NAME, "127.0.0.1", NAME, "127.0.0.1", NAME):
            with socket.create_connection((host, listener.getsockname()[1])) as client:
                client.sendall(host.encode())
                assert client.recv(100) == host.encode()
        thread.join()


def test_many_threads_at_once():
    with serving(http.server.ThreadingHTTPServer(("", 0), BlobHandler)) as port:
        results = []

        def download():
            with urllib.request.urlopen(f"http://{NAME}:{port}/", timeout=30) as response:
                results.append(response.read() == BLOB)

        threads = [threading.Thread(target=download) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 12


def test_two_nodes_two_processes(program):
    server = program(
        """
        import http.server
        server = http.server.ThreadingHTTPServer(("", 0), http.server.SimpleHTTPRequestHandler)
        print(server.server_address[1], flush=True)
        server.serve_forever()
        """
    )
    client = program(
        """
        import urllib.request
        print(len(urllib.request.urlopen("http://b.home.example:%s/" % sys.argv[1]).read()) > 0)
        """,
        server.stdout.readline().strip(),
        node="a",
    )
    assert client.stdout.readline() == "True\n"
