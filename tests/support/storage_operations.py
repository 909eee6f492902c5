"""Random operations on the servers' stores, for the real ones and for their model alike.

An operation is a name and arguments that JSON can hold, so that a process that is to be killed can
tell what it is about to do. The world is small (few names, keys and addresses), so that operations
meet; an operation's number is its time, an hour each, so that everything expires now and then.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, TypeAlias

from memory_stores import MemoryAccountStore, MemoryDirectionStore
from sqlalchemy import select, text

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.errors import RefusedError
from ntmpatch.runtime.schema import (
    accounts,
    addresses,
    audit,
    counters,
    leases,
    nodes,
    revocations,
    tokens,
)
from ntmpatch.runtime.store import SqlAccountStore
from ntmpatch.runtime.store_direction import SqlDirectionStore
from ntmpatch.servers.direction.store import NodeRecord
from ntmpatch.signalling.errors import Refused

if TYPE_CHECKING:
    import random

    from sqlalchemy import Engine

Operation: TypeAlias = tuple[str, list[Any]]

HOUR = 3600.0
EPOCH = 1_800_000_000.0
NAMES = [f"n{number}.home.example" for number in range(9)]
DOMAINS = ["home.example", "away.example", "far.example"]
PREFIXES = ("198.18.0.0/29", "fd00:0:1::/48")
QUARANTINE, ABSENCE = 30 * HOUR, 200 * HOUR
RECENT_TOKENS = 14
ISSUING_INTERVAL = 3
"""Every so many operations one makes a token: others can find it then."""


def key_of(number: int) -> bytes:
    return hashlib.sha256(b"key %d" % number).digest()


def token_of(number: int) -> tuple[bytes, bytes]:
    """Id and secret of the token that operation ``number`` makes."""
    digest = hashlib.sha512(b"token %d" % number).digest()
    return digest[:8], digest[8:40]


def random_operation(rng: random.Random, number: int) -> Operation:
    """The operation of that number."""
    now = EPOCH + number * HOUR
    name = rng.choice(NAMES)
    some_token = (number - rng.randrange(RECENT_TOKENS)) // ISSUING_INTERVAL * ISSUING_INTERVAL
    key = rng.randrange(12)
    expiry = rng.choice([None, None, None, now + rng.randrange(-5, 60) * HOUR])
    kinds: dict[str, tuple[int, list[Any]]] = {
        "add": (4, [name, expiry, number, now]),
        "reissue": (4, [name, number, now]),
        "revoke": (1, [name, now]),
        "remove": (2, [name, now]),
        "set_expiry": (1, [name, expiry, now]),
        "redeem": (12, [some_token, rng.random() < 0.9, key, now]),
        "offer_key": (4, [key, number, now]),
        "lease": (1, [rng.choice(DOMAINS), now]),
        "poll": (1, [rng.randrange(20), now]),
        "certify": (2, [name, rng.randrange(3), now]),
        "register": (6, [name, key, now]),
        "deregister": (1, [name]),
        "release": (1, [name, now]),
    }
    issuing = {"add", "reissue", "offer_key"}
    fitting = [kind for kind in kinds if (kind in issuing) == (number % ISSUING_INTERVAL == 0)]
    (kind,) = rng.choices(fitting, [kinds[kind][0] for kind in fitting])
    return kind, kinds[kind][1]


class Stores:
    """Runs operations on a pair of stores; each subclass says how accounts are administered."""

    accounts: Any
    directions: Any

    def apply(self, operation: Operation) -> str:
        """Run it; what came of it, in words that are the same for both kinds of store."""
        kind, arguments = operation
        try:
            return repr(getattr(self, kind)(*arguments))
        except Refused as refusal:
            return refusal.code.name
        except RefusedError:
            return "refused"

    def revoke(self, name: str, now: float) -> None:
        self.accounts.revoke(name, now)

    def remove(self, name: str, now: float) -> None:
        self.accounts.remove(name, now)

    def set_expiry(self, name: str, expires_at: float | None, now: float) -> None:
        self.accounts.set_expiry(name, expires_at, now)

    def redeem(self, token: int, right: bool, key: int, now: float) -> Any:
        token_id, secret = token_of(token)
        return self.accounts.redeem_token(
            token_id, secret if right else bytes(32), key_of(key), now, "192.0.2.1:1"
        )

    def offer_key(self, key: int, number: int, now: float) -> None:
        self.accounts.offer_key(key_of(key), *token_of(number), now + 9 * HOUR, now, "192.0.2.1:1")

    def lease(self, domain: str, now: float) -> Any:
        return self.accounts.lease_prefixes(domain, now)

    def poll(self, serial: int, now: float) -> Any:
        return self.accounts.revocations_since(serial, now, 5)

    def certify(self, name: str, port: int, now: float) -> None:
        endpoints = [Endpoint("192.0.2.1", port)] if port else None
        self.accounts.save_certificate(name, b"certificate %d" % port, endpoints, now)

    def register(self, name: str, key: int, now: float) -> Any:
        """Two writes, so it is not atomic: see `parts`."""
        ipv4, ipv6 = self.assign(name, now)
        self.save(name, key, ipv4, ipv6, now)
        return ipv4, ipv6

    def assign(self, name: str, now: float) -> tuple[bytes, bytes]:
        pair: tuple[bytes, bytes] = self.directions.assign_addresses(name, *PREFIXES, now)
        return pair

    def save(self, name: str, key: int, ipv4: bytes, ipv6: bytes, now: float) -> None:
        here = (Endpoint("10.0.0.1", 1 + key),)
        record = NodeRecord(
            name, key_of(key), b"certificate", ipv4, ipv6, here[0], here, "tcp", now
        )
        self.directions.save_node(record)

    def deregister(self, name: str) -> None:
        self.directions.remove_location(name)

    def release(self, name: str, now: float) -> None:
        self.directions.release_addresses(name, now)

    def parts(self, operation: Operation) -> list[Operation]:
        """What may be there of an operation that was cut short: any beginning of these."""
        kind, arguments = operation
        if kind != "register":
            return [operation]
        name, _, now = arguments
        return [("assign", [name, now]), operation]


class RealStores(Stores):
    """The ones over SQLAlchemy."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.accounts = SqlAccountStore(engine)
        self.directions = SqlDirectionStore(engine, quarantine=QUARANTINE, absence=ABSENCE)

    def add(self, name: str, expires_at: float | None, number: int, now: float) -> None:
        token_id, secret = token_of(number)
        self.accounts.add_account(
            name, "node", token_id=token_id, secret=secret, now=now, lifetime=9 * HOUR,
            expires_at=expires_at,
        )  # fmt: skip

    def reissue(self, name: str, number: int, now: float) -> None:
        token_id, secret = token_of(number)
        self.accounts.reissue(name, token_id=token_id, secret=secret, now=now, lifetime=9 * HOUR)

    def snapshot(self) -> dict[str, Any]:
        """All that the database holds, when nobody writes any more."""
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "postgresql":
                others = text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
                for _ in range(10_000):  # a backend outlives its client by what it was doing
                    if not connection.scalar(others):
                        break
                    connection.exec_driver_sql("SELECT pg_sleep(0.002), pg_stat_clear_snapshot()")
                else:
                    raise AssertionError("a backend does not end")
                connection.rollback()
            rows = {
                table.name: connection.execute(select(table)).all()
                for table in (accounts, tokens, leases, revocations, counters, audit, addresses)
            }
        serial = {row.name: row.value for row in rows["counters"]}["revocations"]
        log = sorted((row.id, row.action, row.subject) for row in rows["audit"])
        return {
            "accounts": {
                row.fqdn: (
                    row.public_key,
                    row.revoked_at is not None,
                    row.certificate,
                    [Endpoint(*pair) for pair in json.loads(row.endpoints)],
                    row.expires_at,
                )
                for row in rows["accounts"]
            },
            "noted": {row.fqdn for row in rows["accounts"] if row.expiry_noted},
            "tokens": {
                row.token_id: (
                    row.fqdn,
                    row.secret_hash,
                    row.expires_at,
                    row.used_by,
                    row.withdrawn,
                    row.rotates,
                )
                for row in rows["tokens"]
            },
            "leases": {row.domain: (row.ipv4_prefix, row.ipv6_prefix) for row in rows["leases"]},
            "revocations": sorted(
                (row.serial, row.public_key, row.fqdn, row.reason) for row in rows["revocations"]
            ),
            "serial": serial,
            "log": [(action, subject) for _, action, subject in log],
            "addresses": {
                row.fqdn: (row.host, row.ipv4, row.ipv6, row.registered_at, row.released_at)
                for row in rows["addresses"]
            },
            "nodes": {name: self.directions.node_named(name) for name in self._node_names()},
        }

    def _node_names(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(connection.scalars(select(nodes.c.fqdn)))


class ModelStores(Stores):
    """The ones that are dictionaries."""

    def __init__(self) -> None:
        self.accounts = MemoryAccountStore()
        self.directions = MemoryDirectionStore(quarantine=QUARANTINE, absence=ABSENCE)

    def add(self, name: str, expires_at: float | None, number: int, now: float) -> None:
        self.accounts.add_account(
            name, "node", *token_of(number), now + 9 * HOUR, expires_at=expires_at
        )

    def reissue(self, name: str, number: int, now: float) -> None:
        self.accounts.reissue(name, *token_of(number), now + 9 * HOUR, now)

    def snapshot(self) -> dict[str, Any]:
        """What the real ones must hold."""
        held: MemoryAccountStore = self.accounts
        located: MemoryDirectionStore = self.directions
        return {
            "accounts": {
                name: (
                    account.public_key,
                    account.revoked,
                    account.certificate,
                    list(account.endpoints),
                    account.expires_at,
                )
                for name, account in held.accounts.items()
            },
            "noted": set(held.noted),
            "tokens": {
                token_id: (
                    token.fqdn,
                    token.digest,
                    token.expires_at,
                    token.used_by,
                    token.withdrawn,
                    token.rotates,
                )
                for token_id, token in held.tokens.items()
            },
            "leases": {
                domain: (lease.ipv4_prefix, lease.ipv6_prefix)
                for domain, lease in held.leases.items()
            },
            "revocations": [
                (each.serial, each.public_key, each.fqdn, int(each.reason))
                for each, _ in held.revocations
            ],
            "serial": held.serial,
            "log": list(held.log),
            "addresses": {
                name: (each.number, *each.addresses, each.registered_at, each.released_at)
                for name, each in located.assignments.items()
            },
            "nodes": dict(located.records),
        }
