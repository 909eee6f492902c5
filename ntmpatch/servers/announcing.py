"""What NS and RS have in common: they enrol, and tell their coordinators that they live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntmpatch.signalling.effects import Contact, Failed, Ready
from ntmpatch.signalling.enrolled import EnrolledParty
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.process import Process, ask, sleep
from ntmpatch.signalling.recounting import Recounter
from ntmpatch.wire.control_messages import (
    Ack,
    Message,
    ServerLocation,
    addresses_of,
)
from ntmpatch.wire.control_registration import (
    AnnouncementResponse,
    Deregistration,
    ServerAnnouncement,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

ANNOUNCEMENT_TIMEOUT = 3.0
RETRY_INTERVAL = 1.0
MAX_SILENCES = 3
"""Rounds in which no coordinator answers; then the AS is asked where they are."""


class AnnouncingServer(EnrolledParty):
    """Base of NotificationServer and RelayServer."""

    provisional_limit = 1024

    def __init__(self, public_key: bytes, **settings: Any) -> None:
        super().__init__(public_key, **settings)
        Recounter(self)

    @property
    def load(self) -> float:
        """How busy this server is: 0 is idle, 1 takes nothing new."""
        return 0.0

    def begin(self, now: float) -> None:
        """Enrol and announce, from now on."""
        self.now = now
        self._coordinators: frozenset[bytes] = frozenset()
        self._is_ready = False
        self._listeners: set[bytes] = set()
        """Coordinators that heard that we end."""
        self._telling = 0
        self._has_left = False
        self.start(self._serve(), self._ended)

    def is_coordinator(self, peer: bytes) -> bool:
        """Whether ``peer`` is a coordinator of our domain, certified by the AS."""
        return peer in self._coordinators

    # --- ending ------------------------------------------------------------------------

    def drain(self, now: float) -> None:
        """Tell the coordinators that nothing new is taken; what is served goes on."""
        super().drain(now)
        self._listeners = set(self._coordinators)
        for coordinator in self._coordinators:
            self._tell(coordinator, self._announce(coordinator))

    def leave(self, now: float) -> None:
        """Tell the coordinators that we are gone, and announce nothing any more."""
        super().leave(now)
        self._has_left = True
        for coordinator in tuple(self._listeners):
            goodbye = ask(coordinator, Deregistration(), Ack, timeout=ANNOUNCEMENT_TIMEOUT)
            self._tell(coordinator, goodbye)

    @property
    def has_told(self) -> bool:
        """Whether the coordinators have heard what we told last, or will not answer."""
        return super().has_told and not self._telling

    @property
    def is_idle(self) -> bool:
        """Whether the coordinators know that we end, and nobody needs this server any more.

        A subclass says who needs it.
        """
        return super().is_idle and self.has_told

    def _tell(self, coordinator: bytes, process: Process[Message]) -> None:
        def told(_: object, error: Exception | None) -> None:
            self._telling -= 1
            if error is not None:
                self._listeners.discard(coordinator)
                self.emit(Failed(error, "farewell"))

        self._telling += 1
        self.start(process, told)

    # --- announcing --------------------------------------------------------------------
    def announced(self, coordinator: bytes, answer: AnnouncementResponse) -> None:
        """A coordinator has heard our announcement."""

    def unheard(self, coordinator: bytes) -> None:
        """A coordinator did not take our announcement."""

    def _ended(self, _: object, error: Exception | None) -> None:
        if error is not None:
            self.emit(Failed(error, "taking part", fatal=True))

    def _serve(self) -> Process[None]:
        yield from self.enrol()
        fresh = False
        while not self._has_left:
            locations = yield from self.find_coordinators(fresh=fresh)
            yield from self._announce_while_heard(locations)
            fresh = True

    def _announce_while_heard(self, locations: Sequence[ServerLocation]) -> Process[None]:
        keys = [self._meet(location) for location in locations]
        self._coordinators = frozenset(keys)
        silences = 0
        while silences < MAX_SILENCES:
            interval = 0.0
            for location, key in zip(locations, keys, strict=True):
                if self._has_left:
                    return
                try:
                    answer = yield from self._announce(key)
                except (Silent, Refused) as failure:
                    self.emit(Failed(failure, "announcement"))
                    self.unheard(key)
                    self._meet(location)
                else:
                    interval = max(answer.interval, RETRY_INTERVAL)
                    self.announced(key, answer)
                    self._report_ready()
            silences = 0 if interval else silences + 1
            yield from sleep(interval or RETRY_INTERVAL)

    def _announce(self, coordinator: bytes) -> Process[AnnouncementResponse]:
        load = 1.0 if self.draining else self.load
        announcement = ServerAnnouncement(
            self.enrolment.certificate, addresses_of(self.endpoints), load, self.draining
        )
        return (
            yield from ask(
                coordinator, announcement, AnnouncementResponse, timeout=ANNOUNCEMENT_TIMEOUT
            )
        )

    def _report_ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self.emit(Ready(self.role, self.name))

    def _meet(self, location: ServerLocation) -> bytes:
        certificate = self.verify(location.certificate, role="dc")
        self.introduce(certificate.public_key, "DC", certificate.fqdn)
        self.admission.confirm(certificate.public_key)
        self.emit(
            Contact(
                certificate.public_key,
                tuple(address.endpoint() for address in location.endpoints),
                initiate=True,
                role="dc",
                name=certificate.fqdn,
            )
        )
        return certificate.public_key
