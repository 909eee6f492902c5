"""The paper's figures as data: which step answers which, and what each step is.

Envelopes carry a step such as ``3.8``: Fig. 3 (8).
"""

from __future__ import annotations

from typing import Final, NamedTuple

ANSWERS: Final = {
    "3.4": "3.5",
    "3.6": "3.7",
    "3.8": "3.14",
    "3.10": "3.11",
    "3.12": "3.13",
    "3.15": "3.16",
    "5.3": "5.6",
    "5.4": "5.5",
    "5.7": "5.8",
    "5.12": "5.13",
    "5.14": "5.15",
    "5.16": "5.22",
    "5.18": "5.19",
    "5.20": "5.21",
}
"""The step of the message that answers the message of a step."""


class DirectionSteps(NamedTuple):
    """The steps of directing a tunnel, as numbered in one of the two figures that do it."""

    request: str
    look_up: str
    offer: str
    information: str
    relay: str
    route: str
    notify: str
    notification: str
    direct_called: str
    direct_calling: str


TUNNEL_CREATION: Final = DirectionSteps(
    request="3.2",
    look_up="3.3",
    offer="3.4",
    information="3.6",
    relay="5.14",
    route="3.8",
    notify="3.9",
    notification="3.10",
    direct_called="3.12",
    direct_calling="3.15",
)
"""Fig. 3. It knows no relay; where one is needed, Fig. 5's step is what happens."""

NETWORK_SWITCHING: Final = DirectionSteps(
    request="5.9",
    look_up="5.10",
    offer="5.11",
    information="5.12",
    relay="5.14",
    route="5.16",
    notify="5.17",
    notification="5.18",
    direct_called="5.20",
    direct_calling="5.23",
)
"""Fig. 5, from its direction request on."""


def steps_of(step: str) -> DirectionSteps:
    """The figure that a direction under way follows, by any of its steps."""
    return NETWORK_SWITCHING if step.startswith("5.") else TUNNEL_CREATION


TITLES: Final = {
    "3.1": "application resolves the name of CN",
    "3.2": "direction request",
    "3.3": "NS record look-up",
    "3.4": "shared key",
    "3.5": "ack",
    "3.6": "NTM information request",
    "3.7": "NTM information response",
    "3.8": "route direction",
    "3.9": "notification request",
    "3.10": "notification",
    "3.11": "ack",
    "3.12": "route direction",
    "3.13": "ack",
    "3.14": "ack",
    "3.15": "route direction",
    "3.16": "ack",
    "3.17": "tunnel request",
    "3.18": "tunnel response",
    "3.19": "ready",
    "3.20": "keep-alive",
    "3.21": "communication",
    "5.1": "kernel announces the change",
    "5.2": "handover tells negotiation",
    "5.3": "registration request",
    "5.4": "notification service request",
    "5.5": "ack",
    "5.6": "registration response",
    "5.7": "notification service registration",
    "5.8": "ack",
    "5.9": "direction request",
    "5.10": "NS record look-up",
    "5.11": "shared key",
    "5.12": "NTM information request",
    "5.13": "NTM information response",
    "5.14": "relay request",
    "5.15": "ack, forwarding prepared",
    "5.16": "route direction",
    "5.17": "notification request",
    "5.18": "notification",
    "5.19": "ack",
    "5.20": "route direction",
    "5.21": "ack",
    "5.22": "ack",
    "5.23": "route direction",
    "5.24": "keep-alive",
    "5.25": "tunnel request to RS",
    "5.26": "tunnel request from RS",
    "5.27": "tunnel response to RS",
    "5.28": "tunnel response from RS",
    "5.29": "ready",
    "5.30": "keep-alive to RS",
}
"""What each step is, for traces."""
