"""DNS messages, as an authoritative server reads and writes them (RFC 1035, 6891, 7873).

Queries are read here and not by dnspython: it remembers for ever each combination of flags, and of
a record's type and class, that it meets, so strangers could fill the memory; and a query costs a
tenth of the time. Names are bytes as on the wire, in lower case, and end with the root's zero.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError

if TYPE_CHECKING:
    from collections.abc import Iterable

HEADER_SIZE = 12
PLAIN_UDP_SIZE = 512
MAX_UDP_SIZE = 1232
"""Bytes of an answer over UDP with EDNS: passes everywhere unfragmented (DNS flag day 2020)."""
MAX_TCP_SIZE = 65535
MAX_NAME_SIZE = 255
MAX_LABEL_SIZE = 63
MAX_RECORDS = 16
"""Records behind the question of a query; beside an OPT a query has hardly ever one."""
MAX_OPTIONS = 64

QUERY = 0
"""The opcode of all that is answered."""
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS = 16
BADCOOKIE = 23

A, NS, SOA, PTR, TXT, AAAA, OPT, IXFR, AXFR, ANY = 1, 2, 6, 12, 16, 28, 41, 251, 252, 255
IN = 1

QR, AA, TC = 0x8000, 0x0400, 0x0200
OPCODE_SHIFT = 11
KEPT_FLAGS = 0x7800 | 0x0100 | 0x0010
"""Of a query in its answer: opcode, RD and CD."""
DO = 0x8000

COOKIE = 10
CLIENT_COOKIE_SIZE = 8

# identity, flags, numbers of questions, answers, authorities, additions
_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")
# of a record, behind its owner: type, class, TTL, size of its data
_RECORD = struct.Struct("!HHIH")
_OPTION = struct.Struct("!HH")
_POINTER = struct.Struct("!H")
POINTER_BITS = 0xC000

QUESTION_POINTER = _POINTER.pack(POINTER_BITS | HEADER_SIZE)
"""The owner of a record that is about what was asked for (RFC 1035, section 4.1.4)."""


class Opt(NamedTuple):
    """The OPT record of a query (RFC 6891, section 6.1)."""

    payload_size: int
    version: int
    flags: int
    cookie: bytes | None
    """The data of the cookie option: 8 bytes of the client's, perhaps 8 to 32 of a server's."""


class Query(NamedTuple):
    """A query as read. Without a question ``question`` is empty (RFC 7873, section 5.4)."""

    identity: int
    flags: int
    question: bytes
    """As received: the answer repeats it, with its upper and lower case."""
    name: bytes
    labels: tuple[int, ...]
    """Where each label of ``name`` begins."""
    kind: int
    rdclass: int
    opt: Opt | None


def read_query_untrusted(data: bytes) -> Query:
    """Read a query of opcode QUERY, at least HEADER_SIZE long; UntrustedError if it is malformed.

    The names of further records, and all data but the OPT's, are passed over unread.
    """
    identity, flags, questions, answers, authorities, additions = _HEADER.unpack_from(data)
    position = HEADER_SIZE
    labels = []
    name, kind, rdclass = b"", 0, 0
    try:
        if questions == 1:
            while size := data[position]:
                if size > MAX_LABEL_SIZE:
                    raise UntrustedError(Drop.DNS_MALFORMED)
                labels.append(position - HEADER_SIZE)
                position += size + 1
            position += 1
            # A label's size is no letter, so the whole name can be put into lower case.
            name = data[HEADER_SIZE:position].lower()
            kind, rdclass = _QUESTION.unpack_from(data, position)
            position += _QUESTION.size
        elif questions:
            raise UntrustedError(Drop.DNS_MALFORMED)
        question = data[HEADER_SIZE:position]
        opt = None
        if answers or authorities or additions:
            position, opt = _read_records(data, position, answers + authorities, additions)
    except (IndexError, struct.error):
        raise UntrustedError(Drop.DNS_MALFORMED) from None
    if position != len(data) or len(name) > MAX_NAME_SIZE:
        raise UntrustedError(Drop.DNS_MALFORMED)
    return Query(identity, flags, question, name, tuple(labels), kind, rdclass, opt)


def _read_records(
    data: bytes, position: int, before: int, additions: int
) -> tuple[int, Opt | None]:
    """Where the records end, and the OPT among the additions."""
    if before + additions > MAX_RECORDS:
        raise UntrustedError(Drop.DNS_MALFORMED)
    opt = None
    for number in range(before + additions):
        owner_at = position
        while size := data[position]:
            if size >= POINTER_BITS >> 8:
                position += 1
                break
            if size > MAX_LABEL_SIZE:
                raise UntrustedError(Drop.DNS_MALFORMED)
            position += size + 1
        position += 1
        kind, rdclass, ttl, size = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        if kind == OPT:
            # RFC 6891, section 6.1.1: one, in the additional section, of the root.
            if opt is not None or number < before or data[owner_at]:
                raise UntrustedError(Drop.DNS_MALFORMED)
            cookie = _read_cookie(data[position : position + size]) if size else None
            opt = Opt(rdclass, ttl >> 16 & 0xFF, ttl & 0xFFFF, cookie)
        position += size
    return position, opt


def _read_cookie(options: bytes) -> bytes | None:
    """The first cookie among an OPT's options; all others are passed over."""
    cookie = None
    position = count = 0
    while position < len(options):
        code, size = _OPTION.unpack_from(options, position)
        position += _OPTION.size
        value = options[position : position + size]
        position += size
        count += 1
        if position > len(options) or count > MAX_OPTIONS:
            raise UntrustedError(Drop.DNS_MALFORMED)
        if code == COOKIE and cookie is None:
            # RFC 7873, section 5.2.2
            if size != CLIENT_COOKIE_SIZE and not 16 <= size <= 40:
                raise UntrustedError(Drop.DNS_MALFORMED)
            cookie = value
    return cookie


def name_of(text: str) -> bytes:
    """A normalised name as on the wire."""
    labels = text.encode().split(b".")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def pointer(position: int) -> bytes:
    """A compressed name: what stands at ``position`` of the message."""
    return _POINTER.pack(POINTER_BITS | position)


def record(owner: bytes, kind: int, ttl: int, data: bytes) -> bytes:
    """A record of class IN."""
    return owner + _RECORD.pack(kind, IN, ttl, len(data)) + data


def soa_data(primary: bytes, contact: bytes, *times: int) -> bytes:
    """The data of an SOA: ``times`` are serial, refresh, retry, expire, minimum."""
    return primary + contact + struct.pack("!IIIII", *times)


def txt_data(strings: Iterable[bytes]) -> bytes:
    """The data of a TXT record; each string has at most 255 bytes."""
    return b"".join(bytes((len(string),)) + string for string in strings)


def opt_record(rcode: int, flags: int, cookie: bytes | None) -> bytes:
    """The OPT of an answer: our version and size, the upper bits of ``rcode``, the DO flag.

    RFC 3225, section 3: DO is repeated, though nothing here is signed.
    """
    option = b"" if cookie is None else _OPTION.pack(COOKIE, len(cookie)) + cookie
    ttl = (rcode >> 4) << 24 | flags & DO
    return b"\0" + _RECORD.pack(OPT, MAX_UDP_SIZE, ttl, len(option)) + option


def message(
    query: Query,
    flags: int,
    rcode: int,
    sections: tuple[list[bytes], list[bytes], list[bytes]],
    opt: bytes,
) -> bytes:
    """An answer to ``query``: its question, and records for the three sections."""
    answers, authorities, additions = sections
    return b"".join(
        (
            _HEADER.pack(
                query.identity,
                QR | query.flags & KEPT_FLAGS | flags | rcode & 0xF,
                1 if query.question else 0,
                len(answers),
                len(authorities),
                len(additions) + (1 if opt else 0),
            ),
            query.question,
            *answers,
            *authorities,
            *additions,
            opt,
        )
    )


def bare_answer(query: bytes, rcode: int) -> bytes:
    """A header alone, for what was not understood."""
    identity, flags = struct.unpack_from("!HH", query)
    return _HEADER.pack(identity, QR | flags & KEPT_FLAGS | rcode, 0, 0, 0, 0)
