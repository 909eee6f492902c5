"""The device type ``webhook``: a node is woken by a POST to the operator's push gateway.

Where the gateway is, the operator alone says. A node contributes a token, which can be no more than
one word of the URL's path or query, so that no node can have the NS call anything else: redirects
are not followed, proxies of the environment not used.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import re
import ssl
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Meta

from ntmpatch.base.errors import ConfigError, UnavailableError
from ntmpatch.runtime.settings import read_text

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from ntmpatch.servers.notification.devices import Device

_TOKEN = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9_.:~=-]{1,256}")
_HEADER = re.compile(r"([A-Za-z0-9-]+):[ \t]*([\x20-\x7e]+)")


class WebhookOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[ns.devices.webhook]``."""

    url: str
    """https, or http to this machine; ``{token}`` stands for the node's push token."""
    headers_file: str = ""
    """Lines ``Name: value`` that every request bears, as credentials of the gateway."""
    ca_file: str = ""
    """Who may have signed the gateway's certificate, in PEM; empty: whom the system trusts."""
    timeout: Annotated[float, Meta(gt=0, le=30)] = 3.0
    """Seconds for each step of a request: connecting, its answer."""
    concurrency: Annotated[int, Meta(ge=1, le=64)] = 4
    """Requests at once."""


class Webhook:
    """A ``DeviceType``. ConfigError if the options make no sense."""

    def __init__(self, options: dict[str, Any]) -> None:
        try:
            parsed = msgspec.convert(options, WebhookOptions)
        except msgspec.ValidationError as error:
            raise ConfigError(f"[ns.devices.webhook]: {error}") from None
        self.concurrency = parsed.concurrency
        self._url = _gateway(parsed.url)
        self._timeout = parsed.timeout
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": "ntmpatch",
            **(_headers(parsed.headers_file) if parsed.headers_file else {}),
        }
        try:
            self._tls = ssl.create_default_context(cafile=parsed.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"[ns.devices.webhook] ca_file: {parsed.ca_file}: {error}") from None

    def accepts(self, device: Device) -> bool:
        """Whether the token is one word."""
        return _TOKEN.fullmatch(device.push_token) is not None

    def wake(self, device: Device, payload: bytes) -> None:
        """POST to the gateway; UnavailableError unless it answers 2xx."""
        url = self._url
        token = quote(device.push_token, safe="")
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        body = json.dumps(
            {
                "token": device.push_token,
                "node": device.fqdn,
                "payload": base64.urlsafe_b64encode(payload).decode(),
            }
        )
        connection = self._connection()
        try:
            connection.request(
                "POST", target.replace("{token}", token), body.encode(), self._headers
            )
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise UnavailableError(f"push gateway {url.hostname}: {reason}") from error
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise UnavailableError(f"push gateway {url.hostname} answered {status}")

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=self._timeout)


def _gateway(text: str) -> SplitResult:
    where = "[ns.devices.webhook] url"
    try:
        url = urlsplit(text)
        has_good_place = bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        raise ConfigError(f"{where}: {text!r} is no URL") from None
    if not has_good_place or not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ConfigError(f"{where}: {text!r} is no URL, as https://push.example/v1/{{token}}")
    if "{" in url.netloc or url.username is not None or url.fragment:
        raise ConfigError(f"{where}: only path and query may be variable; no user, no fragment")
    if url.scheme != "https" and not (url.scheme == "http" and _is_here(url.hostname or "")):
        raise ConfigError(f"{where}: expected https, or http to an address of this machine")
    return url


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _headers(path: str) -> dict[str, str]:
    headers = {}
    for number, line in enumerate(read_text(path, "headers").splitlines(), 1):
        if not line.strip():
            continue
        match = _HEADER.fullmatch(line.rstrip())
        if match is None:
            # The line itself may be a secret.
            raise ConfigError(f"{path}: line {number}: expected 'Name: value'")
        headers[match[1]] = match[2]
    return headers
