"""Names and endpoints that people write: one spelling comes out, or one clear complaint."""

from __future__ import annotations

import pytest

from ntmpatch.base.addresses import Endpoint, domain_of, in_domain, normalise_fqdn, parse_endpoint
from ntmpatch.base.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("192.0.2.1:51820", Endpoint("192.0.2.1", 51820)),
        ("[2001:db8:0::1]:1", Endpoint("2001:db8::1", 1)),
    ],
)
def test_an_endpoint_is_read_and_written(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(str(endpoint)) == endpoint
    assert endpoint.is_ipv6 is ("[" in text)


@pytest.mark.parametrize(
    "text", ["", "192.0.2.1", ":80", "192.0.2.1:0", "192.0.2.1:65536", "host.example:80", "1:2:3"]
)
def test_what_is_no_endpoint_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected ADDRESS:PORT"):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("name", "normalised"),
    [
        ("Cam.Home.Example.", "cam.home.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("_service.home.example", "_service.home.example"),
        (f"{'a' * 63}.example", f"{'a' * 63}.example"),
    ],
)
def test_a_name_has_one_spelling(name: str, normalised: str) -> None:
    assert normalise_fqdn(name) == normalised
    assert normalise_fqdn(normalised) == normalised


@pytest.mark.parametrize(
    "name",
    [
        "",
        "cam",
        "cam..example",
        "-cam.example",
        "a b.example",
        f"{'a' * 64}.example",
        ".".join(["abcdefgh"] * 29),
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected one as cam\.home\.example"):
        normalise_fqdn(name)


def test_a_domain_does_not_lie_in_itself_nor_in_what_it_only_ends_like() -> None:
    assert domain_of("cam.home.example") == "home.example"
    assert in_domain("cam.home.example", "home.example")
    assert not in_domain("home.example", "home.example")
    assert not in_domain("cam.myhome.example", "home.example")
