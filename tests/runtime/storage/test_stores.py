"""The stores against their model, by random operations; and against each other, by processes."""

from __future__ import annotations

import ipaddress
import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from storage_operations import (
    EPOCH,
    HOUR,
    PREFIXES,
    ModelStores,
    RealStores,
    key_of,
    random_operation,
    token_of,
)

from ntmpatch.runtime.database import open_database
from ntmpatch.wire.control_messages import RefusalCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from databases import Database

pytestmark = pytest.mark.once

OPERATIONS = int(os.environ.get("NTMPATCH_EXAMPLES", "1000"))
PROCESSES = 4
ROUNDS = 12
TOKENS = 50


@pytest.mark.parametrize("seed", [3])
def test_the_stores_do_what_their_model_does(database: Database, seed: int) -> None:
    rng = random.Random(seed)
    real, model = RealStores(open_database(database.url)), ModelStores()
    seen = set()
    for number in range(OPERATIONS):
        operation = random_operation(rng, number)
        outcome = real.apply(operation)
        assert outcome == model.apply(operation), f"seed {seed}, operation {number}: {operation}"
        seen.add(outcome)
        if number % 20 == 0 or number == OPERATIONS - 1:
            assert real.snapshot() == model.snapshot(), f"seed {seed}, after {number}"
    refused = {code.name for code in RefusalCode} & seen
    assert refused == {
        *("TOKEN_WRONG", "TOKEN_USED", "TOKEN_EXPIRED", "TOKEN_WITHDRAWN", "KEY_IN_USE"),
        *("REVOKED", "ACCOUNT_EXPIRED", "NOT_ENROLLED", "EXHAUSTED"),
    }


def test_addresses_are_reused_only_after_quarantine_and_the_longest_gone_first(
    database: Database,
) -> None:
    stores = RealStores(open_database(database.url))
    first = {name: stores.assign(name, EPOCH) for name in "abcde"}  # all that a /29 has
    assert stores.apply(("assign", ["f", EPOCH])) == "EXHAUSTED"
    stores.release("b", EPOCH + 2 * HOUR)
    stores.release("d", EPOCH + 1 * HOUR)
    stores.release("c", EPOCH + 1 * HOUR)
    assert stores.assign("c", EPOCH + 3 * HOUR) == first["c"]  # back in time: its own again
    assert stores.apply(("assign", ["f", EPOCH + 30 * HOUR])) == "EXHAUSTED"
    assert stores.assign("f", EPOCH + 31 * HOUR) == first["d"]
    assert stores.apply(("assign", ["d", EPOCH + 31 * HOUR])) == "EXHAUSTED"
    assert stores.assign("d", EPOCH + 32 * HOUR) == first["b"]
    # A name that nobody removed is gone when it has not registered for the absence's time.
    assert stores.assign("a", EPOCH + 100 * HOUR) == first["a"]
    assert stores.apply(("assign", ["g", EPOCH + 229 * HOUR])) == "EXHAUSTED"
    assert stores.assign("g", EPOCH + 230 * HOUR) == first["e"]


def test_processes_that_share_a_database_never_give_one_thing_to_two(database: Database) -> None:
    stores = RealStores(open_database(database.url))
    for number in range(ROUNDS):
        stores.add(f"t{number}", None, number, EPOCH)
    stores.engine.dispose()

    def compete(own: RealStores, me: int) -> list[Any]:
        rng = random.Random(me)
        answers: list[Any] = []
        for number in rng.sample(range(ROUNDS), ROUNDS):
            key = 100 * me + number
            answers.append(
                ["redeem", number, me, own.apply(("redeem", [number, True, key, EPOCH]))]
            )
            for name in (f"n{number}", f"n{number}.{me}"):
                ipv4, ipv6 = own.directions.assign_addresses(
                    name, "198.18.0.0/24", PREFIXES[1], EPOCH
                )
                answers.append(["assign", name, me, [ipv4.hex(), ipv6.hex()]])
                own.save(name, 1, ipv4, ipv6, EPOCH)
            domain = f"d{number}.example"
            lease = own.lease(domain, EPOCH)
            answers.append(["lease", domain, me, [lease.ipv4_prefix, lease.ipv6_prefix]])
            answers.append(
                ["add", number, me, own.apply(("add", [f"a{number}", None, 50 + key, EPOCH]))]
            )
            own.apply(("revoke", [f"t{(number + 1) % ROUNDS}", EPOCH]))
            own.apply(("reissue", [f"t{number}", 1000 + key, EPOCH]))
        return answers

    serials: list[int] = []

    def watch() -> None:
        polled = stores.accounts.revocations_since(serials[-1] if serials else 0, EPOCH, 100)
        serials.extend(each.serial for each in polled)

    answers = in_processes(database.url, compete, watch)
    told: dict[tuple[str, Any], set[str]] = {}
    for kind, what, _, answer in answers:
        told.setdefault((kind, what), set()).add(json.dumps(answer))
    for kind in ("assign", "lease"):
        given = {what: held for (k, what), held in told.items() if k == kind}
        assert all(len(held) == 1 for held in given.values())  # all were told the same
        assert len({min(held) for held in given.values()}) == len(given)  # and nobody else that
    prefixes = [ipaddress.ip_network(json.loads(min(told["lease", f"d{n}.example"]))[0])
                for n in range(ROUNDS)]  # fmt: skip
    assert not any(a.overlaps(b) for a in prefixes for b in prefixes if a is not b)
    for number in range(ROUNDS):
        good = [a for k, what, _, a in answers if (k, what) == ("redeem", number) and "Acc" in a]
        assert len(good) <= 1
        added = [a for k, what, _, a in answers if (k, what) == ("add", number)]
        assert sorted(added) == ["None"] + ["refused"] * (PROCESSES - 1)
    # Who polls while others revoke misses nothing: a later number is never seen before an earlier.
    watch()
    left = stores.snapshot()["revocations"]
    assert {serial for serial, *_ in left} <= set(serials)
    assert serials == sorted(serials)


def test_a_token_that_several_processes_redeem_at_once_is_one_key_s(database: Database) -> None:
    stores = RealStores(open_database(database.url))
    for number in range(TOKENS):
        stores.add(f"t{number}", None, number, EPOCH)
    stores.engine.dispose()

    def compete(own: RealStores, me: int) -> list[Any]:
        outcomes = [own.apply(("redeem", [n, True, 100 * me + n, EPOCH])) for n in range(TOKENS)]
        return [[number, me, outcome] for number, outcome in enumerate(outcomes)]

    answers = in_processes(database.url, compete, lambda: None)
    for number in range(TOKENS):
        winners = [me for n, me, outcome in answers if n == number and "Account(" in outcome]
        losers = [outcome for n, _, outcome in answers if n == number and "Account(" not in outcome]
        assert losers == ["TOKEN_USED"] * (PROCESSES - 1)
        (winner,) = winners
        account = stores.accounts.account_of(key_of(100 * winner + number))
        assert account is not None
        assert account.fqdn == f"t{number}"
        assert stores.snapshot()["tokens"][token_of(number)[0]][3] == account.public_key


def in_processes(
    url: str, compete: Callable[[RealStores, int], list[Any]], meanwhile: Callable[[], None]
) -> list[Any]:
    """What ``compete(stores, 1)``, ``(stores, 2)``… answer, each in a process of its own.

    They begin together, when all have opened the database.
    """
    start, starter = os.pipe()
    readers = []
    for me in range(1, PROCESSES + 1):
        reader, writer = os.pipe()
        if os.fork() == 0:
            status = 1
            try:
                os.close(starter)
                stores = RealStores(open_database(url))
                stores.accounts.accounts()
                os.write(writer, b" ")
                os.read(start, 1)  # the end, when all are let go
                with os.fdopen(writer, "w") as out:
                    json.dump(compete(stores, me), out)
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        readers.append(reader)
    for reader in readers:
        assert os.read(reader, 1) == b" "
    os.close(start)
    os.close(starter)
    answers: list[Any] = []
    for reader in readers:
        meanwhile()
        with os.fdopen(reader) as answer:
            answers += json.load(answer)
    for _ in readers:
        _, status = os.wait()
        assert status == 0
    return answers
