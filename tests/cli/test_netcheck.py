"""What ``netcheck`` prints of a report. All of it, for real, is in tests/lab/test_nat_kinds.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntmpatch.cli.netcheck import print_report

if TYPE_CHECKING:
    import pytest


def server(role: str, rtt_ms: float | None, *, reachable: bool = True) -> dict[str, Any]:
    """One server of a report."""
    return {
        "role": role,
        "name": "",
        "endpoint": "192.0.2.1:3471",
        "protocol": "UDP",
        "reachable": reachable,
        "rtt_ms": rtt_ms,
    }


def test_networks_nat_and_servers_are_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(
        {
            "fqdn": "a.home.example",
            "registered": True,
            "udp_blocked": False,
            "interfaces": [
                {
                    "name": "wlan0",
                    "address": "10.0.0.7/24",
                    "default_route": True,
                    "metered": True,
                }
            ],
            "ipv4": {
                "usable": True,
                "mapping": "endpoint-dependent",
                "seen_by": {"coordinator": "203.0.113.1:9", "192.0.2.1:3473": "203.0.113.1:10"},
            },
            "ipv6": {"usable": False, "mapping": "unknown", "seen_by": {}},
            "servers": [
                server("AS", 1.5),
                server("DC", None),
                server("RS", None, reachable=False),
            ],
        }
    )
    assert (
        capsys.readouterr().out
        == """\
a.home.example: registered

INTERFACE  ADDRESS
wlan0      10.0.0.7/24  default route, metered

IPv4: behind a NAT that maps a port anew for each destination
  seen at 203.0.113.1:9 by the coordinator
  seen at 203.0.113.1:10 by 192.0.2.1:3473
IPv6: not usable
UDP: gets through

SERVER  NAME  ENDPOINT        BY   ROUND TRIP
AS      -     192.0.2.1:3471  UDP  1.50 ms
DC      -     192.0.2.1:3471  UDP  only after repetition
RS      -     192.0.2.1:3471  UDP  no answer
"""
    )
