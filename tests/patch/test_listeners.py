"""Listening: virtual addresses, the wildcard of both networks, ports, time-outs."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

pytestmark = pytest.mark.usefixtures("patched")


def speak(address):
    """Connect, send our name, return what is sent back."""
    with socket.create_connection(address, 5) as client:
        client.sendall(repr(client.getsockname()).encode())
        return client.recv(1000).decode()


def answer_one(listener):
    connection, peer = listener.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(repr((connection.getsockname(), peer)).encode())
        return connection.family


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "dual-stack", "unbound"])
def test_wildcard_listener_serves_both_networks_at_one_port(bound):
    if bound == "dual-stack":
        listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    elif bound == "unbound":
        listener = socket.socket()
        listener.listen()
    else:
        family = socket.AF_INET6 if ":" in bound else socket.AF_INET
        listener = socket.create_server((bound, 0), family=family)
    hosts = {
        "0.0.0.0": ["127.0.0.1", "198.18.0.1"],
        "unbound": ["127.0.0.1", "198.18.0.1"],
        "::": ["::1", "fd12:3456:789a::1"],
        "dual-stack": ["127.0.0.1", "::1", "198.18.0.1", "fd12:3456:789a::1"],
    }[bound]
    with listener:
        port = listener.getsockname()[1]
        for host in hosts * 2:
            thread = threading.Thread(target=answer_one, args=(listener,))
            thread.start()
            own, peer = eval(speak((host, port)))
            thread.join()
            mapped = "::ffff:" if bound == "dual-stack" and "." in host else ""
            assert own[:2] == (mapped + host, port)
            assert peer[0] == mapped + host
            assert len(peer) == (2 if listener.family == socket.AF_INET else 4)


@pytest.mark.parametrize("host", ["127.0.0.1", "198.18.0.1"])
@pytest.mark.parametrize("way", ["select", "poll", "epoll"])
def test_wildcard_listener_is_readable_exactly_when_either_is(way, host):
    with socket.create_server(("", 0)) as listener:

        def readable(timeout):
            if way == "select":
                return bool(select.select([listener], [], [], timeout)[0])
            poller = select.poll() if way == "poll" else select.epoll()
            poller.register(listener, 1)
            return bool(poller.poll(timeout * 1000 if way == "poll" else timeout))

        assert not readable(0)
        with socket.create_connection((host, listener.getsockname()[1])):
            assert readable(5)
            listener.accept()[0].close()
            assert not readable(0)


def test_many_wait_to_be_accepted():
    with socket.create_server(("", 0), backlog=200) as listener:
        port = listener.getsockname()[1]
        clients = [socket.create_connection(("198.18.0.1", port), 5) for _ in range(100)]
        peers = set()
        for _ in clients:
            connection, peer = listener.accept()
            connection.close()
            peers.add(peer)
        assert peers == {client.getsockname() for client in clients}
        for client in clients:
            client.close()


def test_accepting_times_out_or_not_at_all():
    for host in ("", "198.18.0.1"):
        with socket.create_server((host, 0)) as listener:
            listener.settimeout(0.02)
            with pytest.raises(TimeoutError):
                listener.accept()
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_port_in_use_is_refused_already_when_binding():
    with socket.socket() as one, socket.socket() as two:
        one.bind(("198.18.0.1", 0))
        port = one.getsockname()[1]
        assert port
        with pytest.raises(OSError, match="in use") as caught:
            two.bind(("198.18.0.1", port))
        assert caught.value.errno == errno.EADDRINUSE
        one.listen()
        with pytest.raises(OSError, match="in use"):
            two.bind(("198.18.0.1", port))
        one.close()
        for _ in range(500):
            if two.connect_ex(("198.18.0.1", port)) == errno.ECONNREFUSED:
                break
    with socket.create_server(("198.18.0.1", port)):
        pass


def test_address_of_another_node_is_not_available():
    with socket.socket() as one:
        for address in (("198.18.0.2", 0), ("b.home.example", 0)):
            with pytest.raises(OSError, match="assign") as caught:
                one.bind(address)
            assert caught.value.errno == errno.EADDRNOTAVAIL


def test_closed_listener_refuses():
    listener = socket.create_server(("198.18.0.1", 0))
    address = listener.getsockname()
    listener.close()
    for _ in range(500):
        with socket.socket() as client:
            if client.connect_ex(address) == errno.ECONNREFUSED:
                return
    pytest.fail("still listening")


def test_options_of_a_listener():
    for host in ("", "198.18.0.1"):
        with socket.create_server((host, 0)) as listener:
            level = socket.SOL_SOCKET
            assert listener.getsockopt(level, socket.SO_ACCEPTCONN) == 1
            assert listener.getsockopt(level, socket.SO_TYPE) == socket.SOCK_STREAM
            assert listener.getsockopt(level, socket.SO_REUSEADDR) == 1
            assert listener.getsockopt(level, socket.SO_ERROR) == 0
            listener.listen(5)


def test_connecting_from_a_bound_port():
    with socket.create_server(("198.18.0.1", 0)) as listener, socket.socket() as client:
        client.bind(("198.18.0.1", 0))
        own = client.getsockname()
        client.connect(listener.getsockname())
        connection, peer = listener.accept()
        connection.close()
        assert peer == own == client.getsockname()


@pytest.mark.parametrize("host", ["", "198.18.0.1"])
def test_copy_of_a_listener_accepts(host):
    with socket.create_server((host, 0)) as listener:
        copies = [
            listener.dup(),
            socket.fromfd(listener.fileno(), socket.AF_INET, socket.SOCK_STREAM),
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, os.dup(listener.fileno())),
        ]
        for copy in copies:
            with copy:
                copy.settimeout(5)
                assert copy.getsockname() == listener.getsockname()
                thread = threading.Thread(target=answer_one, args=(copy,))
                thread.start()
                speak(("198.18.0.1", listener.getsockname()[1]))
                thread.join()


def test_prefork_workers_share_a_listener(program):
    server = program(
        """
        import os, socket
        listener = socket.create_server(("", 0))
        workers = []
        for _ in range(3):
            pid = os.fork()
            if not pid:
                while True:
                    connection, peer = listener.accept()
                    with connection:
                        connection.sendall(str(os.getpid()).encode())
            workers.append(pid)
        print(listener.getsockname()[1], flush=True)
        sys.stdin.read()
        for pid in workers:
            os.kill(pid, 9)
        """
    )
    port = server.stdout.readline().strip()
    client = program(
        """
        import socket
        seen = set()
        for _ in range(60):
            for host in ("b.home.example", "127.0.0.1"):
                with socket.create_connection((host, int(sys.argv[1])), 5) as client:
                    seen.add(client.recv(100))
        print(len(seen) >= 1 and b"" not in seen, flush=True)
        """,
        port,
        node="a",
    )
    assert client.stdout.readline() == "True\n"
    server.stdin.close()
    assert server.wait(10) == 0


@pytest.mark.parametrize("host", ["", "198.18.0.1"])
def test_listener_and_connection_travel_to_a_spawned_process(program, host):
    process = program(
        """
        import multiprocessing, os, socket, tempfile, textwrap

        # A spawned child imports the functions it runs, and is patched as it does.
        directory = tempfile.mkdtemp()
        settings = ntmpatch.patch.node.current.settings
        with open(os.path.join(directory, "worker_of_test.py"), "w") as file:
            file.write(textwrap.dedent(f'''
                import ntmpatch, ntmpatch.patch
                ntmpatch.patch_all(gevent=False, settings=ntmpatch.patch.{settings!r})
                def work(listener, given):
                    given.sendall(repr(given.getpeername()).encode())
                    given.close()
                    for _ in range(2):
                        connection, peer = listener.accept()
                        with connection:
                            connection.sendall(repr(connection.getpeername()).encode())
            '''))
        sys.path.insert(0, directory)
        import worker_of_test

        listener = socket.create_server((sys.argv[1], 0))
        port = listener.getsockname()[1]
        client = socket.create_connection(("198.18.0.1", port))
        given = listener.accept()[0]
        context = multiprocessing.get_context("spawn")
        child = context.Process(target=worker_of_test.work, args=(listener, given))
        child.start()
        given.close()
        assert client.recv(100).decode() == repr(client.getsockname())
        for host in ("198.18.0.1", "127.0.0.1" if not sys.argv[1] else "198.18.0.1"):
            with socket.create_connection((host, port)) as client:
                assert client.recv(100).decode() == repr(client.getsockname())
        child.join()
        print("done", child.exitcode)
        """,
        host,
        node="a",
    )
    assert process.stdout.read() == "done 0\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "198.18.0.1", "fd12:3456:789a::1"])
@pytest.mark.parametrize("backlog", [0, 3])
def test_connections_that_are_not_accepted_are_bounded_by_the_backlog(host, backlog):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, 0), family=family))
        listener.listen(backlog)

        def connect():
            client = stack.enter_context(socket.socket(family))
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            return client

        early = [connect() for _ in range(backlog + 1)]
        for client in early:
            assert select.select([], [client], [], 5)[1]
        late = connect()
        assert not select.select([], [late], [], 0.2)[1], "as Linux, one more than the backlog"
        for _ in early:
            stack.enter_context(listener.accept()[0])
        assert select.select([], [late], [], 10)[1], "its SYN goes again"
        late.send(b"x")
        connection = stack.enter_context(listener.accept()[0])
        assert connection.recv(1) == b"x"


def answer_with_pid(listener):
    """In a child: listen on a copy of the bound socket, and say who we are, until killed."""
    listener.listen()
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(str(os.getpid()).encode())


@pytest.mark.parametrize("host", ["", "198.18.0.1"])
def test_each_of_several_processes_listens_on_one_bound_socket(host):
    """As uvicorn's workers do: the parent binds, the children listen."""

    def ask():
        with socket.create_connection(("198.18.0.1", port), 5) as client:
            return int(client.recv(100))

    with socket.socket() as bound:
        bound.bind((host, 0))
        port = bound.getsockname()[1]
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=answer_with_pid, args=(bound,)) for _ in range(2)]
        for child in children:
            child.start()
        try:
            pids = {child.pid for child in children}
            seen = set()
            while seen != pids:
                with contextlib.suppress(ConnectionRefusedError):  # neither listens yet
                    seen.add(ask())
            children[0].kill()
            children[0].join()
            assert {ask() for _ in range(10)} == {children[1].pid}
        finally:
            for child in children:
                child.kill()
                child.join()
        with pytest.raises(ConnectionRefusedError):
            ask()


@pytest.mark.parametrize("when", ["before", "after"])
def test_listener_of_both_networks_is_inherited_by_an_executed_program(nodes, when):
    """As by werkzeug's reloader: allowed before it listens or after, made again by its number."""
    code = f"""
        import socket, sys, ntmpatch
        from ntmpatch.patch import Settings
        ntmpatch.patch_all(gevent=False, settings=Settings{tuple(nodes.settings("a"))!r})
        listener = socket.fromfd(int(sys.argv[1]), socket.AF_INET, socket.SOCK_STREAM)
        print(listener.getsockname()[1], flush=True)
        for _ in range(2):
            connection, address = listener.accept()
            with connection:
                connection.sendall(repr(address).encode())
    """
    with socket.socket() as listener:
        if when == "before":
            listener.set_inheritable(True)
        listener.bind(("", 0))
        listener.listen()
        if when == "after":
            listener.set_inheritable(True)
        port = listener.getsockname()[1]
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(listener.fileno())],
            close_fds=False,
            stdout=subprocess.PIPE,
            text=True,
        )
        with child, child.stdout:
            assert child.stdout.readline() == f"{port}\n"
            listener.close()
            for host in ("198.18.0.1", "127.0.0.1"):
                with socket.create_connection((host, port), 5) as client:
                    assert eval(client.recv(100)) == client.getsockname()
        assert child.returncode == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("198.18.0.1", port), 5)


def test_methods_that_the_program_replaced_are_not_called(monkeypatch):
    """As CPython's test of socketpair() does, to be there between bind() and listen()."""

    def getsockname(_):
        raise AssertionError("the program did not ask")

    monkeypatch.setattr(socket.socket, "getsockname", getsockname)
    monkeypatch.setattr(socket.socket, "getpeername", getsockname)
    with socket.socket() as listener, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        listener.bind(("", 0))
        listener.listen()
        datagrams.bind(("", 0))
        with socket.socket(socket.AF_UNIX) as local, pytest.raises(FileNotFoundError):
            local.bind("/nowhere/x")
