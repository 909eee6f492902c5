"""The relay server as a second place to be seen from: it answers STUN Binding requests (RFC 8489).

Anyone may ask, as at any STUN server, and in another's name. So a stranger gets no memory; no
network is sent more than some answers a second; and of these but a few may be larger than their
requests. A node's requests are padded, and never among these few. The bare one of a standard
client, 20 bytes, is answered by 32, or 44 over IPv6: enough for clients, and useless for a flood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.base.prefixes import ByPrefix
from ntmpatch.base.rates import TokenBucket
from ntmpatch.wire.stun import (
    decode_binding_request_untrusted,
    encode_binding_success,
    encode_unknown_attributes,
)

if TYPE_CHECKING:
    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.base.drops import DropCounter

STUN_RATE = 100.0
"""Answers a second to a network (IPv4 /24, IPv6 /56), on average."""
STUN_BURST = 400.0
"""At once: all nodes of a site that came back to life, four times each."""
STUN_EXCESS_RATE = 240.0
"""Bytes a second by which answers to a network may be larger than its requests: 20 bare ones."""
STUN_EXCESS_BURST = 1200.0


class _Network:
    """What one network may still be sent."""

    __slots__ = ("answers", "excess")

    def __init__(self, now: float) -> None:
        self.answers = TokenBucket(STUN_RATE, STUN_BURST, now)
        self.excess = TokenBucket(STUN_EXCESS_RATE, STUN_EXCESS_BURST, now)


class BindingResponder:
    """Tells who asks where the request came from."""

    def __init__(self, key: bytes, drops: DropCounter) -> None:
        """``key``: secret, for the hash by which networks are told apart."""
        self._networks = ByPrefix(key, _Network)
        self._drops = drops
        self.answers = 0

    def answer(self, source: Endpoint, datagram: bytes | memoryview, now: float) -> bytes | None:
        """What to send to ``source``, if anything."""
        network = self._networks.of(source.host, now)
        if not network.answers.take(now):
            self._drops.drop(Drop.STUN_FLOOD)
            return None
        try:
            request = decode_binding_request_untrusted(datagram)
        except UntrustedError as error:
            self._drops.drop(error.drop)
            return None
        if not request.unknown:
            answer = encode_binding_success(request, source)
            if not network.excess.take(now, max(0, len(answer) - len(datagram))):
                self._drops.drop(Drop.STUN_FLOOD)
                return None
        else:
            answer = encode_unknown_attributes(request)
            if len(answer) > len(datagram):
                self._drops.drop(Drop.STUN_UNKNOWN_ATTRIBUTE)
                return None
        self.answers += 1
        return answer
