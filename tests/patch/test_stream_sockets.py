"""Virtual TCP sockets as programs use them: ways to wait, to end, to copy and to fail."""

from __future__ import annotations

import errno
import multiprocessing
import os
import select
import socket
import struct
import subprocess
import sys
import threading

import pytest

pytestmark = pytest.mark.usefixtures("patched")

BLOB = bytes(range(256)) * 20_000  # 5 MB


@pytest.fixture
def server(patched):  # noqa: ARG001  # for its effect
    with socket.create_server(("a.home.example", 0)) as listener:
        yield listener


@pytest.fixture
def pair(server):
    client = socket.create_connection(server.getsockname())
    connection, _ = server.accept()
    with client, connection:
        yield client, connection


def receive_all(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "198.18.0.1"), (socket.AF_INET6, "fd12:3456:789a::1")]
)
def test_names_of_both_ends_are_virtual_and_agree(family, host):
    with socket.create_server((host, 0), family=family) as listener:
        assert listener.getsockname()[0] == host
        with socket.create_connection(listener.getsockname()[:2]) as client:
            connection, peer = listener.accept()
            with connection:
                assert client.family == connection.family == family
                assert client.getpeername() == connection.getsockname()
                assert connection.getpeername() == client.getsockname() == peer
                assert client.getpeername() == listener.getsockname()
                assert len(peer) == (2 if family == socket.AF_INET else 4)


@pytest.mark.parametrize("size", [0, 1, 1375, 65536, len(BLOB)])
def test_bytes_arrive_unchanged_and_half_close_ends_one_direction(pair, size):
    client, connection = pair

    def echo():
        connection.sendall(receive_all(connection))
        connection.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=echo)
    thread.start()
    client.sendall(BLOB[:size])
    client.shutdown(socket.SHUT_WR)
    assert receive_all(client) == BLOB[:size]
    thread.join()


def test_connection_to_a_port_without_listener_is_refused():
    with socket.socket() as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect(("198.18.0.2", 9))
        assert client.connect_ex(("198.18.0.2", 9)) == errno.ECONNREFUSED


def test_socket_is_of_use_after_a_refused_connection():
    with socket.socket() as client, socket.create_server(("127.0.0.1", 0)) as real:
        assert client.connect_ex(("198.18.0.1", 9)) == errno.ECONNREFUSED
        client.connect(real.getsockname())
        assert client.getpeername() == real.getsockname()


def test_connection_to_silence_times_out():
    with socket.socket() as client:
        client.settimeout(0.05)
        with pytest.raises(TimeoutError, match="timed out"):
            client.connect(("198.18.7.7", 80))
        with pytest.raises(OSError, match="not connected") as caught:
            client.getpeername()
        assert caught.value.errno == errno.ENOTCONN


def test_connection_to_where_nobody_carries_packets_is_unreachable():
    with socket.socket() as client, pytest.raises(OSError, match="route") as caught:
        client.connect(("198.18.8.8", 80))
    assert caught.value.errno == errno.EHOSTUNREACH


def test_receiving_from_silence_times_out(pair):
    client, _ = pair
    client.settimeout(0.02)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)


@pytest.mark.parametrize("way", ["select", "poll", "epoll", "edge-triggered epoll"])
def test_connecting_in_the_background_is_writable_only_once_it_is_established(server, way):
    def writable(client, timeout):
        if way == "select":
            return bool(select.select([], [client], [], timeout)[1])
        if way == "poll":
            poll = select.poll()
            poll.register(client, select.POLLOUT)
            return bool(poll.poll(timeout * 1000))
        with select.epoll() as poller:
            edge = select.EPOLLET if way.startswith("edge") else 0
            poller.register(client, select.EPOLLOUT | edge)
            return bool(poller.poll(timeout))

    with socket.socket() as silent, socket.socket() as client:
        silent.setblocking(False)
        assert silent.connect_ex(("198.18.7.7", 80)) == errno.EINPROGRESS
        assert not writable(silent, 0.02)
        assert silent.connect_ex(("198.18.7.7", 80)) == errno.EALREADY
        with pytest.raises(BlockingIOError):
            silent.send(b"too early")
        client.setblocking(False)
        with pytest.raises(BlockingIOError) as caught:
            client.connect(server.getsockname())
        assert caught.value.errno == errno.EINPROGRESS
        assert writable(client, 5)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert client.connect_ex(server.getsockname()) == errno.EISCONN
        connection, _ = server.accept()
        with connection:
            client.send(b"now")
            assert connection.recv(10) == b"now"


def test_connecting_in_the_background_fails_by_so_error():
    with socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(("198.18.0.1", 9)) == errno.EINPROGRESS
        assert select.select([], [client], [], 5)[1]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_reset_is_told_as_econnreset_and_not_as_end_of_file(pair):
    client, connection = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    assert connection.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        connection.send(b"x")


def test_sending_after_a_reset_tells_it_once_and_then_epipe(pair):
    client, connection = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    poll = select.poll()
    poll.register(connection, 0)
    assert poll.poll(5000)
    with pytest.raises(ConnectionResetError):
        connection.sendall(b"x")
    with pytest.raises(BrokenPipeError):
        connection.sendall(b"x")


def test_closing_with_unread_data_resets(pair):
    client, connection = pair
    client.sendall(b"never read")
    assert select.select([connection], [], [], 5)[0]
    connection.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_pending_error_is_taken_by_so_error(pair):
    client, connection = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    select.select([connection], [], [], 5)
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    assert connection.recv(1) == b""


def test_receiving_into_gathering_peeking_and_files(pair, tmp_path):
    client, connection = pair
    client.sendmsg([b"one ", b"two ", b"three"])
    buffer = bytearray(4)
    assert connection.recv(4, socket.MSG_PEEK) == b"one "
    assert connection.recv_into(buffer) == 4
    assert buffer == b"one "
    assert connection.recvfrom(4) == (b"two ", None)
    assert connection.recvmsg(10)[0] == b"three"
    (tmp_path / "blob").write_bytes(BLOB)
    with (tmp_path / "blob").open("rb") as file:
        thread = threading.Thread(
            target=lambda: (client.sendfile(file), client.shutdown(socket.SHUT_WR))
        )
        thread.start()
        assert connection.recv(1000, socket.MSG_WAITALL) == BLOB[:1000]
        assert receive_all(connection) == BLOB[1000:]
        thread.join()


def test_makefile_reads_lines(pair):
    client, connection = pair
    with client.makefile("rw") as ours, connection.makefile("rw") as theirs:
        ours.write("first\nsecond\n")
        ours.flush()
        assert theirs.readline() == "first\n"
        theirs.write("answer\n")
        theirs.flush()
        assert ours.readline() == "answer\n"


def test_copies_outlive_the_original(pair):
    client, connection = pair
    peer = client.getpeername()
    copy = client.dup()
    by_number = socket.fromfd(client.fileno(), socket.AF_INET, socket.SOCK_STREAM)
    detached = socket.socket(fileno=os.dup(client.fileno()))
    client.close()
    for each in (copy, by_number, detached):
        with each:
            assert each.getpeername() == peer
            assert (each.family, each.type) == (socket.AF_INET, socket.SOCK_STREAM)
            each.sendall(b"still here")
            assert connection.recv(100) == b"still here"
    assert connection.recv(1) == b""


def test_detached_descriptor_stays_virtual(pair):
    client, connection = pair
    peer = client.getpeername()
    with socket.socket(fileno=client.detach()) as again:
        assert again.getpeername() == peer
        again.send(b"x")
        assert connection.recv(1) == b"x"


def test_child_process_inherits_the_descriptor(pair):
    client, connection = pair
    fd = client.fileno()
    connection.send(b"hello")
    code = f"import os; os.write({fd}, os.read({fd}, 99).upper())"
    subprocess.run([sys.executable, "-c", code], pass_fds=[fd], check=True, timeout=20)
    client.close()
    assert receive_all(connection) == b"HELLO"


def test_forked_child_connects_through_the_nodes_control_socket(server):
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_say_hello, args=(server.getsockname(),))
    child.start()
    connection, _ = server.accept()
    with connection:
        assert receive_all(connection) == b"hello from the child"
    child.join(10)
    assert child.exitcode == 0


def _say_hello(address):
    with socket.create_connection(address) as client:
        client.sendall(b"hello from the child")


def test_forked_child_accepts(server):
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_accept_one, args=(server,))
    child.start()
    with socket.create_connection(server.getsockname()) as client:
        assert receive_all(client) == repr(client.getsockname()).encode()
    child.join(10)
    assert child.exitcode == 0


def _accept_one(listener):
    connection, _ = listener.accept()
    with connection:
        connection.sendall(repr(connection.getpeername()).encode())


def test_connection_passed_to_another_process_knows_its_names(pair, program, tmp_path):
    client, connection = pair
    path = str(tmp_path / "channel")
    with socket.socket(socket.AF_UNIX) as meeting:
        meeting.bind(path)
        meeting.listen()
        receiver = program(
            """
            import socket
            with socket.socket(socket.AF_UNIX) as channel:
                channel.connect(sys.argv[1])
                fd = socket.recv_fds(channel, 10, 1)[1][0]
            passed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
            print(passed.getsockname(), passed.getpeername())
            passed.sendall(b"from afar")
            """,
            path,
            node="a",
        )
        channel, _ = meeting.accept()
        with channel:
            socket.send_fds(channel, [b"x"], [client.fileno()])
    assert receiver.stdout.readline() == f"{client.getsockname()} {client.getpeername()}\n"
    assert connection.recv(100) == b"from afar"


def test_options_are_linux_own(pair):
    client, _ = pair
    level = socket.SOL_SOCKET
    assert client.getsockopt(level, socket.SO_TYPE) == socket.SOCK_STREAM
    assert client.getsockopt(level, socket.SO_DOMAIN) == socket.AF_INET
    assert client.getsockopt(level, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
    assert client.getsockopt(level, socket.SO_ACCEPTCONN) == 0
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    client.setsockopt(level, socket.SO_KEEPALIVE, 1)
    assert client.getsockopt(level, socket.SO_KEEPALIVE) == 1
    linger = struct.pack("ii", 1, 5)
    client.setsockopt(level, socket.SO_LINGER, linger)
    assert client.getsockopt(level, socket.SO_LINGER, 8) == linger
    with pytest.raises(OSError, match="Protocol not available") as caught:
        client.setsockopt(socket.IPPROTO_TCP, 9999, 1)
    assert caught.value.errno == errno.ENOPROTOOPT


def read_info(connection):
    """The part of ``struct tcp_info`` that is compared, from the kernel or from the stack."""
    data = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    assert len(data) == 232
    words = struct.unpack_from("=24I4Q6I4Q2I2Q4I", data, 8)
    return {
        "state": data[0],
        "options": data[5] & 7,  # timestamps, SACK, window scale
        "unacked": words[4],
        "has_window": words[18] >= 2,
        "total_retrans": words[23],
        "acked": words[26],
        "received": words[27],
        "notsent": words[30],
        "bytes_sent": words[40],
        "bytes_retrans": words[41],
        "rtt_known": words[15] > 0,
        "min_rtt_known": 0 < words[31] < 0xFFFFFFFF,
    }


def converse(client, connection):
    client.sendall(bytes(5000))
    connection.sendall(receive_exactly(connection, 5000)[:700])
    receive_exactly(client, 700)
    client.sendall(b"so that the answer is acknowledged")
    receive_exactly(connection, 34)


def receive_exactly(connection, size):
    parts = []
    while size:
        parts.append(connection.recv(size))
        size -= len(parts[-1])
    return b"".join(parts)


def test_tcp_info_is_what_linux_tells_of_the_same_conversation(pair):
    client, connection = pair
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kernel_client = socket.create_connection(listener.getsockname())
        kernel_connection, _ = listener.accept()
    with kernel_client, kernel_connection:
        converse(kernel_client, kernel_connection)
        wanted = read_info(kernel_connection)
    converse(client, connection)
    assert read_info(connection) == wanted
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO) & 0xFF == 1, "ESTABLISHED"
    connection.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert read_info(client)["state"] == 8, "CLOSE-WAIT"


def test_user_timeout_reaches_the_stack(pair, nodes):
    client, _ = pair
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2500)
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2500
    port = client.getsockname()[1]
    connections = nodes.services["a"].stack.tcp.connections
    (ours,) = [each for each in connections if each.local[1] == port]
    assert ours.user_timeout == 2.5


def test_options_set_before_connecting_are_kept(server):
    with socket.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 20_000))
        client.connect(server.getsockname())
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_unconnected_and_connected_sockets_refuse_as_linux_does(pair, server):
    client, _ = pair
    for attempt, error in [
        (lambda: client.connect(server.getsockname()), errno.EISCONN),
        (lambda: client.bind(("198.18.0.1", 0)), errno.EINVAL),
        (client.listen, errno.EINVAL),
        (server.getpeername, errno.ENOTCONN),
        (lambda: server.recv(1), errno.ENOTCONN),
    ]:
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            attempt()
        assert caught.value.errno == error
    client.close()
    for use in (client.getpeername, lambda: client.recv(1), lambda: client.send(b"x")):
        with pytest.raises(OSError, match="Bad file descriptor"):
            use()


def test_flags_of_the_descriptor_survive_turning(server):
    with socket.socket() as client:
        number = client.fileno()
        assert not client.get_inheritable()
        client.set_inheritable(True)
        client.settimeout(5)
        client.connect(server.getsockname())
        assert client.fileno() == number
        assert client.get_inheritable()
        assert not os.get_blocking(number)
        assert client.gettimeout() == 5


def test_nothing_is_left_behind(server, nodes):
    def count():
        return len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        with socket.create_connection(server.getsockname()):
            server.accept()[0].close()
    before = count()
    for _ in range(200):
        with socket.create_connection(server.getsockname()) as client:
            connection = server.accept()[0]
            connection.close()
            assert client.recv(1) == b""
    deadline = threading.Event()
    for _ in range(200):
        if count() <= before and not nodes.doors["a"].sockets._streams:
            break
        deadline.wait(0.01)
    assert count() <= before
    assert not {
        k: (v.connection.remote, v.is_pending, v._finished_reading)
        for k, v in nodes.doors["a"].sockets._streams.items()
    }
