"""The promise of the notification service, in bytes: ten times fewer than UDP keep-alives."""

from __future__ import annotations

import pytest
from idle_bytes import with_notification_server
from udp_keepalives import with_udp_keepalives

pytestmark = pytest.mark.once


def test_an_idle_node_sends_ten_times_fewer_bytes_than_with_udp_keepalives() -> None:
    idle = with_notification_server(1.5, 3.5)
    assert idle.registration > 2 * 400, "registrations are counted, with their handshakes"
    assert idle.heartbeat > 2 * 100
    udp = with_udp_keepalives(25.0, hours=1.0)
    assert 9_000 < udp < 20_000  # 144 packets of 60 bytes, and 30 handshakes
    assert udp / idle.per_hour >= 10.0
