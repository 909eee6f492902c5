"""Where a STUN client that others wrote (aioice) is seen from: ``stun_client.py HOST PORT``."""

from __future__ import annotations

import asyncio
import sys

from aioice import Connection, stun
from aioice.ice import StunProtocol


async def main() -> None:
    """Print the local port, and the endpoint as seen."""
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: StunProtocol(Connection(ice_controlling=True)), local_addr=("0.0.0.0", 0)
    )
    request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    answer, _ = await protocol.request(request, (sys.argv[1], int(sys.argv[2])))
    port = transport.get_extra_info("sockname")[1]
    print(port, *answer.attributes["XOR-MAPPED-ADDRESS"])
    transport.abort()


asyncio.run(main())
