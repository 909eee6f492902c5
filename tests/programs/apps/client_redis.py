"""Usage: client_redis.py NAME PORT"""

import asyncio
import sys
import threading

import redis
import redis.asyncio
from content import Checks, blob

name, port = sys.argv[1], int(sys.argv[2])
checks = Checks()
with redis.Redis(name, port, socket_timeout=30) as client:
    client.set("blob", blob(100_000))
    checks.equal("SET and GET of 100 kB", client.get("blob"), blob(100_000))
    with client.pipeline() as pipeline:
        for number in range(200):
            pipeline.incrby("sum", number)
        sums = pipeline.execute()
    checks.equal("a pipeline of 200", sums, [n * (n + 1) // 2 for n in range(200)])
    with client.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe("news")
        while subscription.get_message(timeout=1) is not None:
            pass
        client.publish("news", blob(1000))
        message = None
        while message is None:
            message = subscription.get_message(timeout=30)
    checks.equal("publish and subscribe", message["data"], blob(1000))

    popped: list[object] = []
    waiter = threading.Thread(target=lambda: popped.append(client.blpop("queue", timeout=30)))
    waiter.start()
    client.rpush("queue", b"one")
    waiter.join()
    checks.equal("a blocking pop in a thread", popped, [(b"queue", b"one")])


async def use_asyncio() -> list[bytes]:
    async with redis.asyncio.Redis(host=name, port=port, socket_timeout=30) as client:
        return await asyncio.gather(*(client.echo(f"{number}") for number in range(20)))


echoes = asyncio.run(use_asyncio())
checks.equal("redis.asyncio", echoes, [b"%d" % number for number in range(20)])
checks.report()
