"""Certificates that were verified before: the same bytes need no second look at their signature.

A coordinator meets a certificate at each registration of its node, and several times in every
direction. A signature takes some 60 µs to verify, which was more than a third of a direction.
"""

from __future__ import annotations

from collections import OrderedDict

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.crypto.certificate import Certificate, verify_untrusted

MAX_CERTIFICATES = 8192
"""Those used last are kept: about a kilobyte each."""


class CertificateCache:
    """Only what was verified is kept, so that nobody fills it with what the AS did not sign."""

    def __init__(self) -> None:
        self._verified: OrderedDict[tuple[bytes, bytes], Certificate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._verified)

    def verify_untrusted(self, data: bytes, signing_key: bytes, wall_now: float) -> Certificate:
        """As `certificate.verify_untrusted`; its time is judged anew at each call."""
        identity = (data, signing_key)
        certificate = self._verified.get(identity)
        if certificate is None:
            certificate = verify_untrusted(data, signing_key, wall_now)
            self._verified[identity] = certificate
            if len(self._verified) > MAX_CERTIFICATES:
                self._verified.popitem(last=False)
            return certificate
        if not certificate.not_before <= wall_now <= certificate.not_after:
            del self._verified[identity]
            raise UntrustedError(Drop.CERTIFICATE_EXPIRED)
        self._verified.move_to_end(identity)
        return certificate
