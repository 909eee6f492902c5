"""Messages over QUIC by aioquic, as DATAGRAM frames (RFC 9221) or on one stream.

python quic.py echo PORT
python quic.py ask HOST PORT datagrams|stream WORD REPORT TIMEOUT TAIL

aioquic moves nothing by itself. The client does what a mobile application would: it looks at each
message which source address the kernel would choose, and when that has changed takes a new socket
and a new connection identifier (RFC 9000, section 9.5); the server then validates the path.
"""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import DatagramFrameReceived, QuicEvent, StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from handover_lab.messages import INTERVAL, Book, book_from_arguments

PROTOCOL = "echo"
IDLE_TIMEOUT = 60.0
MAX_FRAME = 1200


def configuration(*, is_client: bool) -> QuicConfiguration:
    """With datagrams; the client does not verify whom it asks, as nobody else is in the lab."""
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[PROTOCOL],
        max_datagram_frame_size=MAX_FRAME,
        idle_timeout=IDLE_TIMEOUT,
        verify_mode=ssl.CERT_NONE if is_client else None,
    )


class EchoServer(QuicConnectionProtocol):
    """Sends back what comes."""

    def quic_event_received(self, event: QuicEvent) -> None:
        """As aioquic calls it."""
        if isinstance(event, DatagramFrameReceived):
            self._quic.send_datagram_frame(event.data)
        elif isinstance(event, StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data)
        self.transmit()


class Client(QuicConnectionProtocol):
    """Enters echoes into the book, and moves when told."""

    book: Book

    def quic_event_received(self, event: QuicEvent) -> None:
        """As aioquic calls it."""
        # Not handed on: the stream that it would make of the data ends ours when it is collected.
        if isinstance(event, DatagramFrameReceived):
            self.book.take_echo(event.data)
        elif isinstance(event, StreamDataReceived):
            self.book.take_bytes(event.data)

    def send(self, stream: int | None, data: bytes) -> None:
        """One message, at once."""
        if stream is None:
            self._quic.send_datagram_frame(data)
        else:
            self._quic.send_stream_data(stream, data)
        self.transmit()

    def open_stream(self) -> int:
        """The identifier of a new stream in both directions."""
        return self._quic.get_next_available_stream_id()

    async def move(self, source: str) -> None:
        """Go on from a new socket at ``source``."""
        old = self._transport
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(source, 0))
        if old is not None:
            old.close()
        self.change_connection_id()


def source_towards(host: str, port: int) -> str | None:
    """The address from which the kernel would send; None without a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, port))
        except OSError:
            return None
        return str(probe.getsockname()[0])


async def ask(host: str, port: int, book: Book) -> None:
    """Send messages until the book is over."""
    source = source_towards(host, port)
    loop = asyncio.get_running_loop()
    connection = QuicConnection(configuration=configuration(is_client=True))
    _, client = await loop.create_datagram_endpoint(
        lambda: Client(connection), local_addr=(source or "0.0.0.0", 0)
    )
    client.book = book
    client.connect((host, port))
    await client.wait_connected()
    stream = client.open_stream() if book.is_stream else None
    print("asking", flush=True)
    while not book.is_over():
        if not book.is_due():
            await asyncio.sleep(0.001)
            continue
        now_from = source_towards(host, port)
        if now_from is not None and now_from != source:
            source = now_from
            await client.move(source)
        client.send(stream, book.next_message())
    end_at = loop.time() + book.drain_timeout
    while not book.is_drained() and loop.time() < end_at:
        await asyncio.sleep(INTERVAL)
    book.write()


def certificate() -> tuple[Any, Any]:
    """A certificate signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cn.lab.example")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now - day, now + day
    )
    return builder.sign(key, hashes.SHA256()), key


async def echo(port: int) -> None:
    """Until killed."""
    settings = configuration(is_client=False)
    settings.certificate, settings.private_key = certificate()
    await serve("0.0.0.0", port, configuration=settings, create_protocol=EchoServer)
    print("echoing", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """By the first word of the command line."""
    if sys.argv[1] == "echo":
        asyncio.run(echo(int(sys.argv[2])))
    else:
        book = book_from_arguments(sys.argv[4:])
        asyncio.run(ask(sys.argv[2], int(sys.argv[3]), book))


if __name__ == "__main__":
    main()
