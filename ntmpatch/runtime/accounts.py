"""Accounts as an administrator handles them: on the account server's own state, while it runs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import in_domain, normalise_fqdn
from ntmpatch.base.errors import ConfigError
from ntmpatch.crypto.certificate import signing_public_key
from ntmpatch.crypto.noise import StaticKey
from ntmpatch.crypto.token import Token
from ntmpatch.runtime.database import open_database
from ntmpatch.runtime.places import place_of
from ntmpatch.runtime.state import StateDirectory, default_state_directory
from ntmpatch.runtime.store import SqlAccountStore

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.base.config import ServeConfig
    from ntmpatch.runtime.store import AccountRow

TOKEN_LIFETIME = 7 * 86400.0
ROLES = ("node", "dc", "ns", "rs")

ACCOUNT_KEY = "as.key"
SIGNING_KEY = "as-signing.key"


def serve_state(config: ServeConfig) -> StateDirectory:
    """The directory of the servers' keys and SQLite files."""
    path = Path(config.serve.state) if config.serve.state else default_state_directory() / "servers"
    if not config.serve.state:
        StateDirectory(path.parent)
    return StateDirectory(path)


def server_database(config: ServeConfig, state: StateDirectory, name: str) -> Engine:
    """The configured database, or the SQLite file ``name``.db in the state directory."""
    if config.serve.database:
        return open_database(config.serve.database)
    path = state.path.absolute() / f"{name}.db"
    # SQLite takes the mode of a new file from the umask; its journals take it from the file.
    if not path.exists():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    return open_database(f"sqlite:///{path}")


def account_server_endpoints(config: ServeConfig) -> tuple[Endpoint, ...]:
    """Where everybody reaches the AS, one endpoint a family; tokens say so."""
    return place_of(config, "as", normalise_fqdn(config.serve.domain)).publics


class Accounts:
    """Adds, lists, revokes. Everything takes effect at once, whether the AS runs or not."""

    def __init__(self, config: ServeConfig) -> None:
        state = serve_state(config)
        self.domain = normalise_fqdn(config.serve.domain)
        self.store = SqlAccountStore(server_database(config, state, "account"))
        self.private_key = state.private_key(ACCOUNT_KEY)
        self.signing_key = state.random_key(SIGNING_KEY)
        self._endpoints = account_server_endpoints(config)

    def add(self, fqdn: str, role: str = "node", lifetime: float = TOKEN_LIFETIME) -> str:
        """A new account's enrolment token; RefusedError if the name is taken."""
        name = self._checked(fqdn)
        token = self._fresh_token(name)
        self.store.add_account(
            name,
            role,
            token_id=token.token_id,
            secret=token.secret,
            now=time.time(),
            lifetime=lifetime,
        )
        return token.encode()

    def reissue(self, fqdn: str, lifetime: float = TOKEN_LIFETIME) -> str:
        """Another token for an account: its next key takes the place of the one it has."""
        name = self._checked(fqdn)
        token = self._fresh_token(name)
        self.store.reissue(
            name, token_id=token.token_id, secret=token.secret, now=time.time(), lifetime=lifetime
        )
        return token.encode()

    def revoke(self, fqdn: str) -> None:
        """The account takes part in nothing any more."""
        self.store.revoke(self._checked(fqdn), time.time())

    def list(self) -> list[AccountRow]:
        """All accounts by name."""
        return self.store.accounts()

    def _checked(self, fqdn: str) -> str:
        name = normalise_fqdn(fqdn)
        if not in_domain(name, self.domain):
            raise ConfigError(f"{name} is not in {self.domain}, the domain that is served here")
        return name

    def _fresh_token(self, fqdn: str) -> Token:
        return Token(
            account_server=StaticKey(self.private_key).public,
            endpoints=self._endpoints,
            signing_key=signing_public_key(self.signing_key),
            token_id=os.urandom(8),
            secret=os.urandom(32),
            fqdn=fqdn,
        )
