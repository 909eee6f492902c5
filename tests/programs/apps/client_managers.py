"""Usage: client_managers.py NAME PORT"""

import multiprocessing
import sys
from multiprocessing.managers import BaseManager, DictProxy

from content import PLAIN_SIZE, Checks, blob, digest


class Manager(BaseManager):
    pass


for each in ("inbox", "outbox", "work"):
    Manager.register(each)
Manager.register("shared", proxytype=DictProxy)


def connected() -> Manager:
    manager = Manager((sys.argv[1], int(sys.argv[2])), b"correct horse")
    manager.connect()
    return manager


def child(number: int) -> None:
    """A process of the pool: forked, it connects anew, and leaves its mark."""
    connected().shared()[f"child {number}"] = digest(blob(number))


if __name__ == "__main__":
    checks = Checks()
    manager = connected()
    inbox = manager.inbox()
    inbox.put(blob(PLAIN_SIZE))
    checks.equal("a queue, 2 MB", inbox.get(timeout=30), blob(PLAIN_SIZE))
    manager.work(blob(1000))
    checks.equal("a call", manager.outbox().get(timeout=30), digest(blob(1000)))
    marks = {f"child {number}": digest(blob(number)) for number in range(8)}
    for method in ("fork", "spawn", "forkserver"):
        shared = manager.shared()
        shared.clear()
        with multiprocessing.get_context(method).Pool(2) as pool:
            pool.map(child, range(8))
        checks.equal(f"a pool of 2 processes ({method})", shared.copy(), marks)
    checks.report()
