"""A multiprocessing manager that serves queues, a dictionary and a function.

Usage: server_managers.py PORT
"""

import queue
import sys
from multiprocessing.managers import BaseManager, DictProxy

from content import digest

inbox: queue.Queue[bytes] = queue.Queue()
outbox: queue.Queue[str] = queue.Queue()
shared: dict[str, object] = {}


class Manager(BaseManager):
    pass


def work(data: bytes) -> None:
    """What a worker would do."""
    outbox.put(digest(data))


if __name__ == "__main__":
    Manager.register("inbox", lambda: inbox)
    Manager.register("outbox", lambda: outbox)
    Manager.register("shared", lambda: shared, DictProxy)
    Manager.register("work", work)
    manager = Manager(("", int(sys.argv[1])), b"correct horse")
    server = manager.get_server()
    print("serving", flush=True)
    server.serve_forever()
