"""nftables rules for the lab: packet loss, the classic kinds of NAT, and two firewalls.

The kinds of NAT are those of RFC 3489, section 5, because users know them by these names; RFC 4787
says the same in two words each, the mapping and the filtering.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SEQUENTIAL_FIRST_PORT = 20_000
SEQUENTIAL_PORTS = 4_096


class NatKind(Enum):
    """What a NAT maps an inside endpoint to, and whom it lets in through that mapping."""

    FULL_CONE = "full cone"  # endpoint-independent mapping and filtering
    ADDRESS_RESTRICTED = "address restricted"  # endpoint-independent, address-dependent
    PORT_RESTRICTED = "port restricted"  # endpoint-independent, address and port-dependent
    SYMMETRIC = "symmetric"  # address and port-dependent mapping and filtering; ports in sequence
    SYMMETRIC_RANDOM = "symmetric, random ports"  # the same, and no port tells the next


def loss(percent: float) -> str:
    """Lose that share of what arrives. In units of 1/10000, as nft has no fractions."""
    lost = round(percent * 100)
    return f"""
    table inet lab_loss {{
        chain arriving {{
            type filter hook prerouting priority raw;
            iifname != "lo" numgen random mod 10000 < {lost} counter drop
        }}
    }}
    """


def nat(kind: NatKind, outside: str) -> str:
    """Rules for a router whose interface to the outside is named so.

    The kernel's masquerade keeps the source port where it is free, so that its mapping is in effect
    endpoint-independent and its filtering address and port-dependent: `PORT_RESTRICTED`. With
    fully-random every destination gets a port of its own: `SYMMETRIC_RANDOM`; `SYMMETRIC` gives it
    the next port of a range. The two freer kinds remember which inside host owns a port, and let
    strangers in by a dnat to it.
    """
    return f"""
    table ip lab_nat {{
        map owners {{
            type inet_service : ipv4_addr
            flags dynamic,timeout
            timeout 2m
        }}
        set known {{
            type inet_service . ipv4_addr
            flags dynamic,timeout
            timeout 2m
        }}
        chain leaving {{
            type nat hook postrouting priority srcnat;
            oifname != "{outside}" accept
            meta l4proto udp update @owners {{ udp sport : ip saddr }}
            meta l4proto {{ tcp, udp }} masquerade {_ports(kind)}
            masquerade
        }}
        chain remember {{
            type filter hook forward priority filter;
            oifname "{outside}" meta l4proto udp update @known {{ udp sport . ip daddr }}
        }}
        chain coming {{
            type nat hook prerouting priority dstnat;
            iifname != "{outside}" accept
            {_let_in(kind)}
        }}
        chain strangers {{
            # Silence, and no entry in the connection table: an entry would take the port from the
            # mapping that the inside host is about to make when both punch at the same time.
            type filter hook input priority filter;
            iifname "{outside}" meta l4proto {{ tcp, udp }} ct state new drop
        }}
    }}
    """


def _ports(kind: NatKind) -> str:
    match kind:
        case NatKind.SYMMETRIC:
            # Each flow takes the next number, so the mapping depends on address and port.
            return f"to : numgen inc mod {SEQUENTIAL_PORTS} offset {SEQUENTIAL_FIRST_PORT}"
        case NatKind.SYMMETRIC_RANDOM:
            return "fully-random"
        case _:
            return ""


def _let_in(kind: NatKind) -> str:
    match kind:
        case NatKind.FULL_CONE:
            return "meta l4proto udp dnat to udp dport map @owners"
        case NatKind.ADDRESS_RESTRICTED:
            return "meta l4proto udp udp dport . ip saddr @known dnat to udp dport map @owners"
        case _:
            return ""


def outbound_only(outside: str, *, udp_only_to: Sequence[str] = ()) -> str:
    """Rules for a router that translates nothing, and lets in only answers to what went out.

    ``udp_only_to``: addresses of either family; if any, UDP goes to no other. What is refused is
    dropped without a word, as most firewalls do.
    """
    refusals = ""
    if udp_only_to:
        of_family = {
            "ip": ", ".join(each for each in udp_only_to if ":" not in each),
            "ip6": ", ".join(each for each in udp_only_to if ":" in each),
        }
        allowed = [
            f"meta l4proto udp {family} daddr {{ {addresses} }} accept"
            for family, addresses in of_family.items()
            if addresses
        ]
        refusals = "\n            ".join([*allowed, "meta l4proto udp drop"])
    return f"""
    table inet lab_firewall {{
        chain passing {{
            type filter hook forward priority filter; policy drop;
            ct state established,related accept
            iifname "{outside}" drop
            {refusals}
            accept
        }}
    }}
    """
