"""The simulations' dictionaries beside the real thing: a domain on SQLite, and on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from domain import Domain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.runtime.database import open_database
from ntmpatch.runtime.store import SqlAccountStore
from ntmpatch.runtime.store_direction import SqlDirectionStore
from ntmpatch.signalling.effects import Assigned, Failed, Resolved

if TYPE_CHECKING:
    from databases import Database

pytestmark = pytest.mark.once


class Accounts(SqlAccountStore):
    """What the simulation calls to make an account."""

    def add(self, fqdn: str, role: str, token_id: bytes, secret: bytes, expires_at: float) -> None:
        self.add_account(fqdn, role, token_id=token_id, secret=secret, now=0.0, lifetime=expires_at)


def test_a_domain_comes_up_and_comes_back_with_what_it_stored(database: Database) -> None:

    def open_stores() -> None:
        engine = open_database(database.url)
        domain.accounts, domain.locations = Accounts(engine), SqlDirectionStore(engine)

    domain = Domain(1)
    open_stores()
    domain.account_server = domain.start_account_server()
    domain.start_servers()
    a = domain.start_node("a", Endpoint("198.51.100.1", 1000))
    b = domain.start_node(
        "b", Endpoint("10.0.0.2", 1000), nat=Endpoint("203.0.113.2", 4444), device_type="none"
    )
    domain.register(a, b)
    first = domain.resolve(a, "b")
    assert isinstance(first, Resolved)
    assert first.ipv4 == b.of(Assigned)[0].ipv4

    domain.network.run(2.0)
    open_stores()
    domain.account_server = domain.start_account_server()
    domain.coordinator = domain.start_coordinator()
    domain.network.run(10.0)
    c = domain.start_node("c", Endpoint("198.51.100.3", 1000))
    domain.register(c)
    second = domain.resolve(c, "b")
    assert isinstance(second, Resolved)
    assert (second.ipv4, second.ipv6) == (first.ipv4, first.ipv6)
    assert len({a.of(Assigned)[0].ipv4, first.ipv4, c.of(Assigned)[0].ipv4}) == 3

    domain.accounts.revoke("b.home.example", domain.network.wall_clock())
    assert domain.network.run(130.0, lambda: any(failed.fatal for failed in b.of(Failed)))
