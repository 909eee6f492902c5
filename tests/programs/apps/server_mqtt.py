"""amqtt's broker. Usage: server_mqtt.py PORT"""

import asyncio
import sys

from amqtt.broker import Broker


async def main(port: str) -> None:
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"0.0.0.0:{port}"}},
        "plugins": {
            "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
        },
    }
    await Broker(config).start()
    print("serving", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1]))
