"""What an idle node behind a NAT sends: the table of docs/notification.md.

In virtual time, with real tunnels: some seconds. `python benchmarks/idle_bytes.py`
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from idle_bytes import Idle, with_notification_server
from udp_keepalives import with_udp_keepalives


def main() -> None:
    rows: list[tuple[str, float, str]] = []
    for interval in (20.0, 25.0):
        rate = with_udp_keepalives(interval)
        rows.append((f"UDP keep-alives every {interval:.0f} s", rate, ""))
    first_hour = with_notification_server(0.0, 1.0)
    first_day = with_notification_server(0.0, 24.0)
    day = with_notification_server(3.0, 27.0)
    rows.append(("NS, the first hour: start, and learning the interval", *described(first_hour)))
    rows.append(("NS, the first day with that hour", *described(first_day)))
    rows.append(("NS, from the fourth hour on", *described(day)))
    print("| way | bytes an hour | of which | UDP at 20 s is | UDP at 25 s is |")
    print("|---|---|---|---|---|")
    for name, rate, parts in rows:
        ratios = " | ".join(f"{reference / rate:.1f} times" for _, reference, _ in rows[:2])
        print(f"| {name} | {rate:,.0f} | {parts} | {ratios} |")


def described(idle: Idle) -> tuple[float, str]:
    parts = {
        "heart-beats": idle.heartbeat,
        "registrations": idle.registration,
        "connection": idle.service,
        "certificates": idle.certificates,
    }
    text = ", ".join(f"{name} {value / idle.hours:,.0f}" for name, value in parts.items())
    return idle.per_hour, text


if __name__ == "__main__":
    main()
