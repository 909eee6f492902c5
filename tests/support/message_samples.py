"""Values of any type that msgspec reads: what messages are made of, from a seed.

The types themselves say what is allowed (sizes, ranges, lengths), so a new message or field has
samples at once.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

from msgspec import inspect

from ntmpatch.wire.control import AnyMessage
from ntmpatch.wire.control_messages import Address, FederatedDomain, Message

if TYPE_CHECKING:
    import enum
    import random

MESSAGE_TYPES: tuple[type[Message], ...] = typing.get_args(AnyMessage)

HOSTS = ("192.0.2.7", "198.51.100.255", "2001:db8::7", "fe80::1%eth0", "::", "0.0.0.0")
_PLAIN_LETTERS = "abXY019._"
"""What every pattern allows."""
_LETTERS = "abcxyz019.-_\n\x00\u00e4\u2603\U0001f980"


def random_message(rng: random.Random) -> Message:
    """A message of any type; every field is allowed."""
    return typing.cast("Message", sample(rng, rng.choice(MESSAGE_TYPES)))


def sample(rng: random.Random, kind: Any) -> Any:
    """A value of ``kind``: a struct, or any type that msgspec knows."""
    info = _infos.get(kind)
    if info is None:
        info = _infos[kind] = inspect.type_info(kind)
    return _value(rng, info)


_infos: dict[Any, inspect.Type] = {}


def _value(rng: random.Random, info: inspect.Type) -> Any:
    match info:
        case inspect.Metadata(type=inner):
            return _value(rng, inner)
        case inspect.UnionType(types=types):
            return _value(rng, rng.choice(types))
        case inspect.StructType(cls=cls) if cls is Address:
            return Address(rng.choice(HOSTS), rng.choice((1, 3471, 65535)))
        case inspect.StructType(cls=cls) if cls is FederatedDomain:
            name = "".join(rng.choice(_LETTERS) for _ in range(rng.randrange(20)))
            return FederatedDomain(name, f"198.18.{4 * rng.randrange(64)}.0/22", "fd00:1::/48")
        case inspect.StructType(cls=cls, fields=fields):
            # Fields that have defaults are left out at times, from the end on, as older senders do.
            optional = [f for f in fields if not f.required]
            left_out = rng.randrange(len(optional) + 1) if rng.random() < 0.3 else 0
            given = fields[: len(fields) - left_out]
            return cls(**{field.name: _value(rng, field.type) for field in given})
        case inspect.NamedTupleType(cls=cls, fields=fields):
            return cls(*(_value(rng, field.type) for field in fields))
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            size = _size(rng, info, 3)
            items = [_value(rng, item) for _ in range(size)]
            return tuple(items) if isinstance(info, inspect.VarTupleType) else items
        case inspect.TupleType(item_types=items):
            return tuple(_value(rng, item) for item in items)
        case inspect.DictType(key_type=key, value_type=value):
            return {_value(rng, key): _value(rng, value) for _ in range(rng.randrange(3))}
        case inspect.BytesType():
            return rng.randbytes(_size(rng, info, 40))
        case inspect.StrType():
            letters = _LETTERS if info.pattern is None else _PLAIN_LETTERS
            return "".join(rng.choice(letters) for _ in range(_size(rng, info, 20)))
        case inspect.IntType():
            low = info.ge if info.ge is not None else -(2**31)
            high = info.le if info.le is not None else 2**63 - 1
            return rng.choice((low, high, rng.randint(low, high)))
        case inspect.FloatType():
            high = info.le if info.le is not None else 1e300
            return rng.choice((info.ge or 0.0, high, rng.random() * high))
        case inspect.BoolType():
            return rng.random() < 0.5
        case inspect.NoneType():
            return None
        case inspect.EnumType(cls=cls):
            return rng.choice(list(typing.cast("type[enum.Enum]", cls)))
        case inspect.LiteralType(values=values):
            return rng.choice(values)
        case inspect.AnyType():
            return rng.choice((None, 1, "x", b"y"))
    raise TypeError(f"no samples of {info}")


def _size(rng: random.Random, info: Any, usual: int) -> int:
    """A length within the type's bounds: mostly small, at times the smallest or the largest."""
    low = info.min_length or 0
    high = info.max_length if info.max_length is not None else max(low, usual)
    draw = rng.random()
    if draw < 0.1:
        return int(low)
    if draw < 0.15:
        return int(high)
    return rng.randint(low, min(high, max(low, usual)))
