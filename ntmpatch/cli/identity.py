"""The identity that a node needs before it can start: there, or made from a token."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from ntmpatch.base.errors import ConfigError, NtmpatchError, UnavailableError
from ntmpatch.runtime.state import ENROLLING_LOCK, ROTATION

if TYPE_CHECKING:
    from ntmpatch.runtime.settings import NodeSettings

ENROLMENT_TIMEOUT: Final = 15.0
"""Seconds during which enrolment is tried before the command gives up."""


ROTATION_TIMEOUT: Final = 5.0
"""Seconds that a start waits for the AS to finish a change of key."""


def ensure_identity(settings: NodeSettings) -> None:
    """Enrol with the settings' token, unless there is an identity or another process makes it.

    Raises ConfigError, RefusedError and UnavailableError.
    """
    if settings.has_identity:
        _finish_rotation(settings)
        return
    enrolling = settings.state.lock(ENROLLING_LOCK, timeout=2 * ENROLMENT_TIMEOUT)
    if enrolling is None:
        raise UnavailableError(f"{settings.state.path}: another process has not enrolled in time")
    with contextlib.closing(enrolling):
        _enrol(settings)


def _finish_rotation(settings: NodeSettings) -> None:
    """Finish a change of key that was cut short. Where that fails, the identity is the old one."""
    if settings.state.read(ROTATION) is None:
        return
    from ntmpatch.runtime.rotation import rotate_key  # noqa: PLC0415 (only where it is needed)

    with contextlib.suppress(NtmpatchError):
        rotate_key(settings, ROTATION_TIMEOUT)


def _enrol(settings: NodeSettings) -> None:
    if settings.has_identity:
        return  # whoever had the lock before made it
    if settings.token is None:
        raise ConfigError(missing_identity(settings))
    from ntmpatch.runtime.enrol import enrol  # noqa: PLC0415 (only where it is needed)

    enrol(settings, ENROLMENT_TIMEOUT)


def missing_identity(settings: NodeSettings) -> str:
    """What to tell whoever has neither an identity nor a token."""
    return (
        f"{settings.state.path} holds no identity: give --token, as made by"
        " 'ntmpatch account add FQDN'"
    )
