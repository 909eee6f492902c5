"""A cached certificate counts for as long as it is valid, and for the key that signed it."""

from __future__ import annotations

import pytest

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.crypto import certificate_cache
from ntmpatch.crypto.certificate import Certificate, issue, signing_public_key
from ntmpatch.crypto.certificate_cache import CertificateCache

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
PUBLIC, OTHER_PUBLIC = signing_public_key(KEY), signing_public_key(OTHER_KEY)


def issued(number: int) -> bytes:
    return issue(Certificate("node", f"n{number}.home.example", bytes(32), (), 100.0, 200.0), KEY)


def refusal(cache: CertificateCache, data: bytes, key: bytes, now: float) -> Drop:
    with pytest.raises(UntrustedError) as caught:
        cache.verify_untrusted(data, key, now)
    return caught.value.drop


def test_it_says_what_verification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = CertificateCache()
    data = issued(1)
    first = cache.verify_untrusted(data, PUBLIC, 150.0)
    assert cache.verify_untrusted(bytes(bytearray(data)), PUBLIC, 160.0) is first
    assert refusal(cache, data, OTHER_PUBLIC, 150.0) is Drop.CERTIFICATE_NOT_SIGNED
    assert refusal(cache, data[:-1] + b"\0", PUBLIC, 150.0) is Drop.CERTIFICATE_NOT_SIGNED
    for now in (201.0, 99.0):
        assert refusal(cache, data, PUBLIC, now) is Drop.CERTIFICATE_EXPIRED
    assert len(cache) == 0

    # Those used last stay.
    monkeypatch.setattr(certificate_cache, "MAX_CERTIFICATES", 2)
    for number in (1, 2, 1, 3):
        cache.verify_untrusted(issued(number), PUBLIC, 150.0)
    monkeypatch.setattr(certificate_cache, "verify_untrusted", None)
    for number in (1, 3):
        assert cache.verify_untrusted(issued(number), PUBLIC, 150.0).fqdn.startswith(f"n{number}.")
    with pytest.raises(TypeError):
        cache.verify_untrusted(issued(2), PUBLIC, 150.0)
