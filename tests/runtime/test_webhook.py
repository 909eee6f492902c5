"""The webhook device type against a real HTTP server: what it calls, and what it will not."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ntmpatch.base.errors import ConfigError, UnavailableError
from ntmpatch.runtime import devices
from ntmpatch.runtime.webhook import Webhook
from ntmpatch.servers.notification.devices import Device, PluggedIn
from ntmpatch.signalling.effects import Work
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.process import Wait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.metadata import EntryPoint
    from pathlib import Path

pytestmark = pytest.mark.once

B = Device("b.home.example", "tok:1.x")


class Gateway(ThreadingHTTPServer):
    """A push gateway; ``status`` is what it answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), GatewayHandler)
        self.status = 202
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class GatewayHandler(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))
        if self.server.status == 0:
            threading.Event().wait(1.0)
            return
        self.send_response(self.server.status)
        self.send_header("Location", f"http://{self.server.place}/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not to the test's output."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        yield server
        server.shutdown()


def self_signed(directory: Path) -> tuple[Path, Path]:
    """Certificate and key of 127.0.0.1, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "cert.pem", directory / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file


def test_it_posts_token_name_and_payload_with_the_operators_headers(
    gateway: Gateway, tmp_path: Path
) -> None:
    headers = tmp_path / "headers"
    headers.write_text("Authorization: Bearer s3cret\n\nX-Topic:  ntm\n")
    url = f"http://{gateway.place}/v1/{{token}}/send?to={{token}}"
    webhook = Webhook({"url": url, "headers_file": str(headers)})
    webhook.wake(B, b"\xc0\xff\xfe")
    ((path, received, body),) = gateway.requests
    assert path == "/v1/tok%3A1.x/send?to=tok%3A1.x"
    assert received["Authorization"] == "Bearer s3cret"
    assert received["X-Topic"] == "ntm"
    assert base64.urlsafe_b64decode(body.pop("payload")) == b"\xc0\xff\xfe"
    assert body == {"token": "tok:1.x", "node": "b.home.example"}


def test_whatever_else_the_gateway_does_is_a_failure_in_bounded_time(gateway: Gateway) -> None:
    webhook = Webhook({"url": f"http://{gateway.place}/{{token}}", "timeout": 0.2})
    for status in (302, 307, 404, 500):
        gateway.status = status
        with pytest.raises(UnavailableError, match=f"answered {status}"):
            webhook.wake(B, b"")
    assert {path for path, _, _ in gateway.requests} == {"/tok%3A1.x"}, "a redirect was followed"
    gateway.status = 0
    with pytest.raises(UnavailableError, match="timed out"):
        webhook.wake(B, b"")
    gateway.server_close()
    with pytest.raises(UnavailableError, match=r"refused|reset"):
        webhook.wake(B, b"")


def test_over_tls_the_gateway_must_be_whom_the_operator_trusts(
    gateway: Gateway, tmp_path: Path
) -> None:
    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    gateway.socket = context.wrap_socket(gateway.socket, server_side=True)
    url = f"https://{gateway.place}/{{token}}"
    Webhook({"url": url, "ca_file": str(certificate)}).wake(B, b"")
    assert len(gateway.requests) == 1
    with pytest.raises(UnavailableError, match="certificate verify failed"):
        Webhook({"url": url}).wake(B, b"")
    assert len(gateway.requests) == 1


def test_a_token_is_one_word_and_no_more() -> None:
    webhook = Webhook({"url": "https://push.example/{token}"})
    assert webhook.accepts(B)
    for token in ("", ".", "..", "a/b", "a?b", "a#b", "a b", "a\r\nb", "%2e", "é", "@x", "x" * 257):
        assert not webhook.accepts(Device("b.home.example", token)), token


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "url"),
        ({"url": "https://push.example/", "colour": "red"}, "colour"),
        ({"url": "http://push.example/{token}"}, "expected https"),
        ({"url": "https://{token}.example/"}, "only path and query"),
        ({"url": "https://me:secret@push.example/"}, "only path and query"),
        ({"url": "ftp://push.example/"}, "expected https"),
        ({"url": "https://push.example:port/"}, "no URL"),
        ({"url": "https://push.example/ x"}, "no URL"),
        ({"url": "push.example"}, "no URL"),
        ({"url": "https://push.example/", "timeout": 0}, "timeout"),
        ({"url": "https://push.example/", "ca_file": "/nonexistent"}, "ca_file"),
        ({"url": "https://push.example/", "headers_file": "/nonexistent"}, "headers"),
    ],
)
def test_options_that_cannot_work_are_told(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        devices.device_types({"webhook": options})


def test_other_packages_bring_device_types_by_an_entry_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from importlib.metadata import EntryPoint, EntryPoints  # noqa: PLC0415

    def found(*, group: str, name: str) -> EntryPoints:
        point: EntryPoint = EntryPoint(name, "ntmpatch.runtime.webhook:Webhook", group)
        return EntryPoints([point] if name == "pigeon" else [])

    monkeypatch.setattr(devices, "entry_points", found)
    table = {"url": "https://push.example/"}
    made = devices.device_types({"pigeon": table})
    assert isinstance(made["pigeon"], Webhook)
    with pytest.raises(ConfigError, match="no installed package"):
        devices.device_types({"owl": table})
    with pytest.raises(ConfigError, match="built in"):
        devices.device_types({"tcp": {}})


def test_pushes_take_turns() -> None:
    class One:
        concurrency = 1

        def accepts(self, _: Device) -> bool:
            return True

        def wake(self, _: Device, __: bytes) -> None:
            raise AssertionError("only the runtime calls it")

    plugged = PluggedIn(One())
    first, second, third = (plugged.wake(B, b"") for _ in range(3))
    assert isinstance(next(first), Work)
    waiting, given_up = next(second), next(third)
    assert isinstance(waiting, Wait)
    assert isinstance(given_up, Wait)
    with pytest.raises(ValueError, match="too late"):
        third.throw(ValueError("too late"))
    with pytest.raises(Refused, match="push: it fell"):
        first.throw(OSError("it fell"))
    assert waiting.event.is_set
    assert not given_up.event.is_set
    assert isinstance(second.send(None), Work)
    with pytest.raises(StopIteration):
        second.send(None)
    assert isinstance(next(plugged.wake(B, b"")), Work)
