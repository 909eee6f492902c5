"""Random zones and random queries: the answers agree with a plain model of RFC 1034."""

from __future__ import annotations

import ipaddress
from typing import Any, TypeAlias

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
from hypothesis import given
from hypothesis import strategies as st
from name_server import Asked, packed

from ntmpatch.servers.direction.zone import ZoneFacts, reverse_name

Model: TypeAlias = dict[dns.name.Name, dict[str, set[str]]]

DOMAINS = ["a.example", "b.example", "in.a.example"]
PRIMARY = "dc.a.example"
LABELS = st.sampled_from(["cam", "x", "y", "in", "dc", "_ntm", "a-b"])
PREFIXES = ["198.18.0.0/20", "198.18.0.0/24", "198.19.7.16/29", "fd00::/48", "fdff:8000::/33"]


@st.composite
def names(draw: st.DrawFn) -> str:
    labels = draw(st.lists(LABELS, max_size=3))
    return ".".join([*labels, draw(st.sampled_from(DOMAINS))])


@st.composite
def contents(draw: st.DrawFn) -> tuple[list[Any], dict[str, list[Any]]]:
    prefixes = [
        ipaddress.ip_network(text)
        for text in (draw(st.sampled_from(PREFIXES[:3])), draw(st.sampled_from(PREFIXES[3:])))
    ]
    nodes: dict[str, list[Any]] = {}
    for number, name in enumerate(draw(st.lists(names(), unique=True, max_size=6))):
        if name not in (*DOMAINS, PRIMARY, f"_ntm.{PRIMARY}"):
            host = draw(st.sampled_from([2, 3, 4, 5])) if number < 1 else number + 2
            nodes[name] = [prefix[host % prefix.num_addresses] for prefix in prefixes]
    return prefixes, nodes


def build(prefixes: list[Any], nodes: dict[str, list[Any]]) -> tuple[Asked, Model, list[Any]]:
    """The name server, and by itself all that there is in its zones, and where these begin."""
    facts = ZoneFacts(
        domains=DOMAINS,
        primary=PRIMARY,
        hosts={PRIMARY: packed("192.0.2.1")},
        texts={f"_ntm.{PRIMARY}": [b"\1t"]},
        prefixes=prefixes,
    )
    asked = Asked(facts)
    model: Model = {}

    def add(name: str, kind: str, value: str) -> None:
        model.setdefault(dns.name.from_text(name), {}).setdefault(kind, set()).add(value)

    add(PRIMARY, "A", "192.0.2.1")
    add(f"_ntm.{PRIMARY}", "TXT", '"t"')
    for name, addresses in nodes.items():
        asked.directory.put(name, [address.packed for address in addresses])
        for address in addresses:
            add(name, "A" if address.version == 4 else "AAAA", str(address))
    pointers = {address: name for name, pair in nodes.items() for address in pair}
    for prefix in prefixes:
        pointers.setdefault(prefix[1], PRIMARY)
    for address, name in pointers.items():
        add(address.reverse_pointer, "PTR", f"{name}.")
    apexes = [dns.name.from_text(domain) for domain in DOMAINS]
    for prefix in prefixes:
        step = 8 if prefix.version == 4 else 4
        whole = -(-prefix.prefixlen // step) * step
        for subnet in prefix.subnets(new_prefix=whole):
            labels = 2 + whole // step + 1
            _, apex = dns.name.from_text(subnet.network_address.reverse_pointer).split(labels)
            apexes.append(apex)
    for apex in apexes:
        add(apex.to_text(), "NS", f"{PRIMARY}.")
    return asked, model, apexes


@given(
    contents(),
    st.lists(
        st.tuples(
            st.one_of(
                names(),
                st.tuples(st.sampled_from(PREFIXES), st.integers(0, 9), st.integers(0, 36)).map(
                    lambda drawn: reverse_name(
                        ipaddress.ip_network(drawn[0])[drawn[1] % 8].packed
                    ).split(".", drawn[2] % 28)[-1]
                ),
            ),
            st.sampled_from(["A", "AAAA", "NS", "SOA", "PTR", "TXT", "MX", "DS"]),
            st.booleans(),
            st.integers(-1, 0),
        ),
        min_size=1,
        max_size=12,
    ),
)
def test_answers_agree_with_a_plain_model(
    zones: tuple[list[Any], dict[str, list[Any]]], queries: list[tuple[str, str, bool, int]]
) -> None:
    asked, model, apexes = build(*zones)
    for text, kind, upper, edns in queries:
        name = dns.name.from_text(text.upper() if upper else text)
        inside = [apex for apex in apexes if name.is_subdomain(apex)]
        answer = asked.ask(name.to_text(), kind, use_edns=edns)
        values = {item.to_text() for rrset in answer.answer for item in rrset}
        if not inside:
            assert answer.rcode() == dns.rcode.REFUSED
            assert not values
            continue
        apex = max(inside, key=len)
        exists = any(each.is_subdomain(name) for each in model)
        assert answer.rcode() == (dns.rcode.NOERROR if exists else dns.rcode.NXDOMAIN)
        assert answer.flags & dns.flags.AA
        if kind == "SOA" and name == apex:
            assert len(values) == 1
            continue
        assert values == model.get(name, {}).get(kind, set())
        assert all(rrset.name == name for rrset in answer.answer)
        assert [rrset.name for rrset in answer.authority] == ([] if values else [apex])
