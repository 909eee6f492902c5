"""How a look-up fails."""

from __future__ import annotations

from ntmpatch.base.errors import RefusedError, UnavailableError


class NameUnknown(RefusedError):  # noqa: N818 - reads as the event that it is
    """No node of that name has ever registered (``EAI_NONAME``)."""


class TryAgain(UnavailableError):  # noqa: N818 - reads as the event that it is
    """The name may exist, but no tunnel came up in a bounded time (``EAI_AGAIN``)."""
