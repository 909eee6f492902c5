"""The relay server as a second place to be seen from: it answers STUN Binding requests (RFC 8489).

Anyone may ask, as at any STUN server. So a stranger gets no memory, nothing is sent that is much
larger than what came (a bare request of 20 bytes is answered by 32, or 44 to an IPv6 address; one
of ours by no more than it has), and no network is sent more than some answers a second.
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


class BindingResponder:
    """Tells who asks where the request came from."""

    def __init__(self, key: bytes, drops: DropCounter) -> None:
        """``key``: secret, for the hash by which networks are told apart."""
        self._buckets = ByPrefix(key, lambda now: TokenBucket(STUN_RATE, STUN_BURST, now))
        self._drops = drops
        self.answers = 0

    def answer(self, source: Endpoint, datagram: bytes | memoryview, now: float) -> bytes | None:
        """What to send to ``source``, if anything."""
        if not self._buckets.of(source.host, now).take(now):
            self._drops.drop(Drop.STUN_FLOOD)
            return None
        try:
            request = decode_binding_request_untrusted(datagram)
        except UntrustedError as error:
            self._drops.drop(error.drop)
            return None
        if not request.unknown:
            answer = encode_binding_success(request, source)
        else:
            answer = encode_unknown_attributes(request)
            if len(answer) > len(datagram):
                self._drops.drop(Drop.STUN_UNKNOWN_ATTRIBUTE)
                return None
        self.answers += 1
        return answer
