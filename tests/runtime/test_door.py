"""The node's door, by its protocol: requests, refusals, and who may come in."""

from __future__ import annotations

import _socket
import array
import errno
import os
import stat

import pytest
from nodes import Nodes

from ntmpatch.wire import local


@pytest.fixture
def nodes(tmp_path):
    nodes = Nodes(tmp_path, "a", "b")
    yield nodes
    nodes.stop()


class Program:
    """A control connection, without the patched surface."""

    def __init__(self, fd):
        self.connection = _socket.socket(fileno=fd)
        self.connection.settimeout(5)

    def ask(self, request, *fds):
        record = request if isinstance(request, bytes) else local.encode(request)
        rights = array.array("i", fds)
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if fds else []
        self.connection.sendmsg([record], ancillary)
        return local.decode_reply(self.connection.recv(local.MAX_RECORD_SIZE))


@pytest.fixture
def program(nodes):
    program = Program(nodes.doors["a"].attach())
    yield program
    program.connection.close()


def test_control_socket_is_its_owners_and_goes_with_the_node(nodes):
    path = nodes.control_path("a")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with_path = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    with_path.connect(path)
    answer = Program(with_path.detach()).ask(local.Hello(local.VERSION, 1))
    assert isinstance(answer, local.Welcome)
    assert (answer.fqdn, answer.control_path) == ("a.home.example", path)
    nodes.thread.post(nodes.doors["a"].finish)
    nodes.stop()
    assert not os.path.exists(path)
    nodes.stop = lambda: None


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (local.Hello(99, 1), errno.EPROTONOSUPPORT),
        (b"\xc1", errno.EPROTO),
        (b"\x81\xa4type\xa7unknown", errno.EPROTO),
        (b"x" * 100_000, errno.EPROTO),
        (local.Connect(b"\xc6\x12\x00\x02", 1, 0, 0), errno.EPROTO),  # lacks its descriptor
        (local.BindTcp((4,), b"\xc6\x12\x00\x02", 0), errno.EADDRNOTAVAIL),
        (local.Describe(12345), errno.ENOENT),
        (local.SetBacklog(12345, 1), errno.EINVAL),
        (local.Inform(12345), errno.ENOTCONN),
    ],
)
def test_refusals(program, request_, error):
    answer = program.ask(request_)
    assert isinstance(answer, local.Failed)
    assert answer.error == error
    assert isinstance(program.ask(local.Status()), local.Report)


def test_questions_about_the_node(nodes, program):
    assert program.ask(local.Resolve("b.home.example")).ipv4 == b"\xc6\x12\x00\x02"
    assert isinstance(program.ask(local.Resolve("x.home.example")), local.NameFailed)
    assert program.ask(local.ReverseResolve(b"\xc6\x12\x00\x02")).name == "b.home.example"
    assert program.ask(local.Status()).json == b'{"fqdn":"a.home.example"}'
    assert program.ask(local.Rebind(("127.0.0.2",))) == local.Done()
    assert nodes.services["a"].rebound == ("127.0.0.2",)


def test_a_connection_is_two_descriptors_and_three_records(program):
    near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    near.settimeout(5)
    bound = program.ask(
        local.Listen((4,), None, 0, 5, os.fstat(near.fileno()).st_ino), far.fileno()
    )
    far.close()
    assert bound.port
    mine, theirs = _socket.socketpair()
    mine.settimeout(5)
    mine.send(b"fill")
    request = local.Connect(b"\xc6\x12\x00\x01", bound.port, 4, os.fstat(mine.fileno()).st_ino)
    connecting = program.ask(request, theirs.fileno())
    theirs.close()
    header, ancillary, _, _ = near.recvmsg(local.ACCEPTED_SIZE, 64)
    _, remote, own = local.unpack_accepted(header)
    assert remote == (connecting.local, connecting.local_port)
    assert own == (b"\xc6\x12\x00\x01", bound.port)
    accepted = _socket.socket(fileno=array.array("i", ancillary[0][2])[0])
    accepted.settimeout(5)
    mine.send(b"data")
    assert accepted.recv(100) == b"data"  # and nothing of the filler
    facts = program.ask(local.Describe(os.fstat(accepted.fileno()).st_ino))
    assert (facts.kind, facts.remote_port) == ("stream", connecting.local_port)
    assert program.ask(local.Outcome(connecting.id)) == local.Fate(pending=False, error=0)
    accepted.close()
    assert mine.recv(1) == b""
    for end in (near, mine):
        end.close()


def test_descriptors_of_failed_requests_are_closed(program):
    near, far = _socket.socketpair()
    near.settimeout(5)
    program.ask(local.BindTcp((4,), b"\xc6\x12\x00\x02", 0), far.fileno())
    far.close()
    assert near.recv(1) == b""
    near.close()


def test_reservation_lives_as_long_as_its_descriptor(program):
    near, far = _socket.socketpair()
    other, other_far = _socket.socketpair()
    request = local.BindTcp((4,), b"\xc6\x12\x00\x01", 5000)
    assert program.ask(request, far.fileno()).port == 5000
    assert program.ask(request, other_far.fileno()).error == errno.EADDRINUSE
    far.close()
    near.close()
    for _ in range(1000):
        answer = program.ask(request, other_far.fileno())
        if isinstance(answer, local.Bound):
            break
    assert isinstance(answer, local.Bound)
    other.close()
    other_far.close()


def test_nobody_waits_for_a_node_that_has_ended(nodes):
    idle = Program(nodes.doors["a"].attach())
    idle.ask(local.Hello(local.VERSION, 1))
    nodes.stop()
    late = Program(nodes.doors["a"].attach())
    assert idle.connection.recv(1) == late.connection.recv(1) == b""
    assert not nodes.doors["a"]._connections
    nodes.stop = lambda: None
