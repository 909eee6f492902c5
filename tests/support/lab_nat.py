"""nftables rules for the lab: packet loss and the four classic kinds of NAT.

The kinds are those of RFC 3489, section 5, because users know them by these names; RFC 4787 says
the same in two words each, the mapping and the filtering.
"""

from __future__ import annotations

from enum import Enum


class NatKind(Enum):
    """What a NAT maps an inside endpoint to, and whom it lets in through that mapping."""

    FULL_CONE = "full cone"  # endpoint-independent mapping and filtering
    ADDRESS_RESTRICTED = "address restricted"  # endpoint-independent, address-dependent
    PORT_RESTRICTED = "port restricted"  # endpoint-independent, address and port-dependent
    SYMMETRIC = "symmetric"  # address and port-dependent mapping and filtering


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
    fully-random every destination gets a port of its own: `SYMMETRIC`. The two freer kinds remember
    which inside host owns a port, and let strangers in by a dnat to it.
    """
    randomly = "fully-random" if kind is NatKind.SYMMETRIC else ""
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
            meta l4proto {{ tcp, udp }} masquerade {randomly}
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


def _let_in(kind: NatKind) -> str:
    match kind:
        case NatKind.FULL_CONE:
            return "meta l4proto udp dnat to udp dport map @owners"
        case NatKind.ADDRESS_RESTRICTED:
            return "meta l4proto udp udp dport . ip saddr @known dnat to udp dport map @owners"
        case NatKind.PORT_RESTRICTED | NatKind.SYMMETRIC:
            return ""
