"""Accounts as an administrator handles them: on the account server's own state, while it runs."""

from __future__ import annotations

import os
import pwd
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import in_domain, normalise_fqdn
from ntmpatch.base.errors import ConfigError
from ntmpatch.crypto.noise import StaticKey
from ntmpatch.crypto.token import Token
from ntmpatch.runtime.database import open_database
from ntmpatch.runtime.places import place_of
from ntmpatch.runtime.signing import SigningKeyFile
from ntmpatch.runtime.state import StateDirectory, default_state_directory
from ntmpatch.runtime.store import SqlAccountStore
from ntmpatch.runtime.store_records import Actor

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.base.config import ServeConfig
    from ntmpatch.runtime.store import AccountRow, AuditRow

TOKEN_LIFETIME = 7 * 86400.0
ROLES = ("node", "dc", "ns", "rs")

ACCOUNT_KEY = "as.key"


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
        self.domains = account_domains(config)
        self.store = SqlAccountStore(server_database(config, state, "account"))
        self.private_key = state.private_key(ACCOUNT_KEY)
        self.signing_keys = SigningKeyFile(state)
        self._endpoints = account_server_endpoints(config)

    def add(
        self,
        fqdn: str,
        role: str = "node",
        lifetime: float = TOKEN_LIFETIME,
        *,
        expires_in: float | None = None,
        domains: tuple[str, ...] = (),
    ) -> str:
        """A new account's enrolment token; RefusedError if the name is taken.

        ``expires_in``: seconds after which the account ends. ``domains``: what a DC leads beside
        the domain of its name.
        """
        name = self._checked(fqdn)
        if domains and role != "dc":
            raise ConfigError(f"{name}: only a dc leads domains")
        token = self._fresh_token(name)
        now = time.time()
        self.store.add_account(
            name,
            role,
            token_id=token.token_id,
            secret=token.secret,
            now=now,
            lifetime=lifetime,
            expires_at=None if expires_in is None else now + expires_in,
            domains=tuple(self._checked_domain(domain) for domain in domains),
            by=_administrator(),
        )
        return token.encode()

    def reissue(self, fqdn: str, lifetime: float = TOKEN_LIFETIME) -> str:
        """Another token for an account: its next key takes the place of the one it has."""
        name = self._checked(fqdn)
        token = self._fresh_token(name)
        self.store.reissue(
            name,
            token_id=token.token_id,
            secret=token.secret,
            now=time.time(),
            lifetime=lifetime,
            by=_administrator(),
        )
        return token.encode()

    def revoke(self, fqdn: str) -> None:
        """The account takes part in nothing any more."""
        self.store.revoke(self._checked(fqdn), time.time(), _administrator())

    def remove(self, fqdn: str) -> None:
        """The account is gone; its name may be given to somebody else."""
        self.store.remove(self._checked(fqdn), time.time(), _administrator())

    def set_expiry(self, fqdn: str, expires_in: float | None) -> None:
        """The account ends after so many seconds from now, or never."""
        now = time.time()
        expires_at = None if expires_in is None else now + expires_in
        self.store.set_expiry(self._checked(fqdn), expires_at, now, _administrator())

    def rotate_signing_key(self, overlap: float, *, distrust: bool = False) -> float:
        """Announce a fresh signing key; when it signs. ``distrust``: now, and it alone counts.

        RefusedError if one is announced already.
        """
        now = time.time()
        signs_from = self.signing_keys.rotate(now, overlap, distrust=distrust)
        self.store.note(
            "rotate-signing-key",
            "AS",
            now,
            _administrator(),
            keys=[key.hex() for key in self.signing_keys.announced(now)],
            signs_from=signs_from,
            distrust=distrust,
        )
        return signs_from

    def log(self, fqdn: str | None = None, limit: int | None = None) -> list[AuditRow]:
        """The last changes, of one account or of all, the oldest first."""
        subject = None if fqdn is None else normalise_fqdn(fqdn)
        return self.store.log(subject=subject, limit=limit)

    def list(self) -> list[AccountRow]:
        """All accounts by name."""
        return self.store.accounts(time.time())

    def _checked(self, fqdn: str) -> str:
        name = normalise_fqdn(fqdn)
        if not any(in_domain(name, domain) for domain in self.domains):
            served = ", ".join(self.domains)
            raise ConfigError(f"{name} is not in {served}: what is served here")
        return name

    def _checked_domain(self, domain: str) -> str:
        name = normalise_fqdn(domain)
        return name if name in self.domains else self._checked(name)

    def _fresh_token(self, fqdn: str) -> Token:
        return Token(
            account_server=StaticKey(self.private_key).public,
            endpoints=self._endpoints,
            signing_key=self.signing_keys.announced(time.time())[0],
            token_id=os.urandom(8),
            secret=os.urandom(32),
            fqdn=fqdn,
        )


def account_domains(config: ServeConfig) -> tuple[str, ...]:
    """The domains whose accounts may be made here."""
    named = config.account.domains or (config.serve.domain,)
    return tuple(dict.fromkeys(normalise_fqdn(domain) for domain in named))


def _administrator() -> Actor:
    """Who runs this command, for the audit log."""
    try:
        who = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        who = f"uid {os.getuid()}"
    return Actor(who, f"command line on {socket.gethostname()}")
