"""UDP ports: batches cut and joined by the kernel, and the same without its help."""

from __future__ import annotations

import gevent
import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.runtime.udp import UdpPort


class Sink:
    """Collects datagrams of a port, whatever batches they came in."""

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []
        self.batches = 0
        self.wakeups = 0

    def batch(self, buffer: memoryview, segment_size: int, _source: Endpoint) -> None:
        self.batches += 1
        starts = range(0, max(1, len(buffer)), segment_size)
        self.datagrams += [bytes(buffer[start : start + segment_size]) for start in starts]

    def idle(self) -> None:
        self.wakeups += 1


def open_port(host: str, sink: Sink, *, gso: bool) -> UdpPort:
    return UdpPort(
        Endpoint(host, 0), on_batch=sink.batch, on_idle=sink.idle, on_writable=sink.idle, gso=gso
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("gso", [True, False], ids=["offload", "plain"])
def test_a_batch_arrives_as_its_datagrams(host: str, gso: bool) -> None:
    sink = Sink()
    receiver = open_port(host, sink, gso=gso)
    sender = open_port(host, Sink(), gso=gso)
    sent = [bytes([number]) * 1408 for number in range(40)] + [b"last, shorter"]
    sender.send(memoryview(b"".join(sent)), 1408, receiver.local)
    sender.send(b"alone", 5, receiver.local)
    with gevent.Timeout(5):
        while len(sink.datagrams) < len(sent) + 1:
            gevent.sleep(0.001)
    assert sink.datagrams == [*sent, b"alone"]
    if gso:
        assert sink.batches < len(sent)
    sender.close()
    receiver.close()


def test_a_segment_larger_than_the_mtu_is_sent_without_offload() -> None:
    """A batch the kernel refuses to cut (EINVAL) still arrives."""
    sink = Sink()
    receiver = open_port("127.0.0.1", sink, gso=True)
    sender = open_port("127.0.0.1", Sink(), gso=True)
    # 65 datagrams: one more than older kernels cut in one call.
    sent = [bytes([number]) * 900 for number in range(65)]
    sender.send(b"".join(sent), 900, receiver.local)
    with gevent.Timeout(5):
        while len(sink.datagrams) < len(sent):
            gevent.sleep(0.001)
    assert sink.datagrams == sent
    sender.close()
    receiver.close()


def test_zero_length_datagrams_and_refused_ports_do_no_harm() -> None:
    sink = Sink()
    receiver = open_port("127.0.0.1", sink, gso=True)
    closed = open_port("127.0.0.1", Sink(), gso=True)
    nobody = closed.local
    closed.close()
    receiver.send(b"to nobody", 9, nobody)
    receiver.send(b"to nobody", 9, nobody)
    sender = open_port("127.0.0.1", Sink(), gso=True)
    sender.send(b"", 1, receiver.local)
    sender.send(b"after", 5, receiver.local)
    with gevent.Timeout(5):
        while len(sink.datagrams) < 2:
            gevent.sleep(0.001)
    assert sink.datagrams == [b"", b"after"]
    sender.close()
    receiver.close()
