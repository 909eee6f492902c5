"""Messages over iroh, as datagrams or on one stream, between two endpoints without relays.

python iroh_talker.py echo PORT
python iroh_talker.py ask IDENTITY ADDRESS:PORT datagrams|stream WORD REPORT TIMEOUT TAIL

iroh watches the networks of its machine by itself, so the client does nothing on a move.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import iroh  # type: ignore[import-untyped,unused-ignore]  # has no types

from handover_lab.messages import INTERVAL, Book, book_from_arguments

PROTOCOL = b"ntmpatch/handover"
READ_SIZE = 65536


async def endpoint(address: str) -> iroh.Endpoint:
    """Without relays and discovery: nothing outside the lab could be reached."""
    options = iroh.EndpointOptions(
        preset=iroh.preset_minimal(),
        bind_addr=address,
        alpns=[PROTOCOL],
        relay_mode=iroh.RelayMode.disabled(),
    )
    return await iroh.Endpoint.bind(options)


async def echo(port: int) -> None:
    """Until killed."""
    server = await endpoint(f"0.0.0.0:{port}")
    print(f"{server.id()} echoing", flush=True)
    while (incoming := await server.accept_next()) is not None:
        connection = await (await incoming.accept()).connect()
        async with asyncio.TaskGroup() as group:
            group.create_task(_echo_datagrams(connection))
            group.create_task(_echo_stream(connection))


async def _echo_datagrams(connection: iroh.Connection) -> None:
    with contextlib.suppress(iroh.IrohError):
        while True:
            connection.send_datagram(await connection.read_datagram())


async def _echo_stream(connection: iroh.Connection) -> None:
    with contextlib.suppress(iroh.IrohError):
        stream = await connection.accept_bi()
        while data := await stream.recv().read(READ_SIZE):
            await stream.send().write_all(data)


async def _take_datagrams(connection: iroh.Connection, book: Book) -> None:
    with contextlib.suppress(iroh.IrohError):
        while True:
            book.take_echo(await connection.read_datagram())


async def _take_stream(stream: iroh.BiStream, book: Book) -> None:
    with contextlib.suppress(iroh.IrohError):
        while data := await stream.recv().read(READ_SIZE):
            book.take_bytes(data)


async def _send(connection: iroh.Connection, stream: iroh.BiStream | None, book: Book) -> None:
    with contextlib.suppress(iroh.IrohError):
        while not book.is_over():
            if not book.is_due():
                await asyncio.sleep(0.001)
            elif stream is None:
                connection.send_datagram(book.next_message())
            else:
                await stream.send().write_all(book.next_message())


async def ask(identity: str, where: str, book: Book) -> None:
    """Send messages until the book is over."""
    client = await endpoint("0.0.0.0:0")
    target = iroh.EndpointAddr(iroh.EndpointId.from_string(identity), None, [where])
    connection = await client.connect(target, PROTOCOL)
    stream = await connection.open_bi() if book.is_stream else None
    reading = _take_datagrams(connection, book) if stream is None else _take_stream(stream, book)
    tasks = [asyncio.create_task(each) for each in (reading, _send(connection, stream, book))]
    print("asking", flush=True)
    while not book.is_over():  # a full stream may hold the sender: this task keeps the time
        await asyncio.sleep(INTERVAL)
    loop = asyncio.get_running_loop()
    end_at = loop.time() + book.drain_timeout
    while not book.is_drained() and loop.time() < end_at:
        await asyncio.sleep(INTERVAL)
    book.write()
    for task in tasks:
        task.cancel()


def main() -> None:
    """By the first word of the command line."""
    if sys.argv[1] == "echo":
        asyncio.run(echo(int(sys.argv[2])))
    else:
        asyncio.run(ask(sys.argv[2], sys.argv[3], book_from_arguments(sys.argv[4:])))


if __name__ == "__main__":
    main()
