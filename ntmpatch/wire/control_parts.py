"""Parts of control messages that are no messages: what a direction and a recording are made of.

They change by the same law as the messages (wire/control_messages.py).
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

MAX_ACCESS_RANGES = 16


class AccessRange(Struct, frozen=True, array_like=True):
    """Ports ``first`` to ``last`` of an IP protocol (6: TCP, 17: UDP)."""

    protocol: Annotated[int, Meta(ge=0, le=255)]
    first: Annotated[int, Meta(ge=0, le=65535)]
    last: Annotated[int, Meta(ge=0, le=65535)]


AccessRanges: TypeAlias = Annotated[tuple[AccessRange, ...], Meta(max_length=MAX_ACCESS_RANGES)]


class SeenStep(Struct, frozen=True, array_like=True):
    """One step of a figure as a party saw it. ``sender`` and ``receiver`` count in ``parties``."""

    figure: Annotated[int, Meta(ge=1, le=255)]
    number: Annotated[int, Meta(ge=1, le=255)]
    microseconds: Annotated[int, Meta(ge=0, le=2**40)]
    """Since the request whose recording this is arrived."""
    sender: Annotated[int, Meta(ge=0, le=255)]
    receiver: Annotated[int, Meta(ge=0, le=255)]
    refused: bool = False
    """It answers, and says no."""


Title: TypeAlias = Annotated[str, Meta(max_length=48)]
"""Role and name of a party, for people: ``DC dc.home.example``."""
