"""Every type of control message, by everyone who must not send it: refused by name, in vain."""

from __future__ import annotations

import pytest
from attack_scene import ANSWERS, ENEMIES, MESSAGES, VICTIMS, Scene, state
from message_samples import MESSAGE_TYPES

from ntmpatch.base.drops import Drop
from ntmpatch.wire.control import Kind
from ntmpatch.wire.control_messages import RefusalCode, RouteDirection
from ntmpatch.wire.control_registration import Deregistration

NODES_ENEMIES = ("node", "ns")
"""Who can have a channel to a node at all: those it was directed to, and its own servers."""


def test_no_type_of_message_and_no_handler_is_without_a_case() -> None:
    """A new one belongs into tests/support/attack_scene.py: what would an enemy say with it?"""
    assert set(MESSAGES) == set(MESSAGE_TYPES)
    scene = Scene()
    for role, seat in scene.victims.items():
        assert set(ANSWERS[role]) == set(seat.party._handlers), role
        for kind, enemies in ANSWERS[role].items():
            assert set(enemies) == set(ENEMIES), (role, kind)


@pytest.mark.parametrize(
    ("victim", "role"),
    [(v, r) for v in VICTIMS for r in (NODES_ENEMIES if v == "node" else ENEMIES)],
)
def test_requests_that_the_enemy_must_not_make(victim: str, role: str) -> None:
    scene = Scene()
    enemy = scene.enemy(role, victim)
    seat = scene.victims[victim]
    before = state(seat)
    for kind, make in MESSAGES.items():
        handled = ANSWERS[victim].get(kind)
        if handled is None and kind in seat.party._handlers:
            continue  # the test above tells that its case is missing
        expected = RefusalCode.UNSUPPORTED if handled is None else handled[role]
        if expected is None:
            continue
        assert enemy.try_(seat, make(scene, enemy)) is expected, kind
        assert state(seat) == before, kind


@pytest.mark.parametrize("victim", VICTIMS)
def test_answers_to_questions_that_nobody_asked(victim: str) -> None:
    """With random transactions, and with those of others that the enemy might have learned."""
    scene = Scene()
    seat = scene.victims[victim]
    enemy = scene.enemy("node", victim)
    if victim != "node":
        assert enemy.meet(seat)
    before = state(seat)
    # One question of the victim to somebody else is open all the while.
    other = scene.victims["dc" if victim != "dc" else "ns"]
    other.up = False
    identity = seat.party._engine.ask(
        other.party.public_key, Deregistration(), "", scene.domain.network.now, timeout=1e6
    )
    for kind, make in MESSAGES.items():
        for answer in (Kind.RESPONSE, Kind.REFUSAL):
            for transaction_id in (None, identity):
                dropped = seat.drops[Drop.CONTROL_UNEXPECTED]
                message = make(scene, enemy)
                enemy.say(seat, message, answer, transaction_id=transaction_id)
                scene.domain.network.run(0.02)
                assert seat.drops[Drop.CONTROL_UNEXPECTED] == dropped + 1, kind
    assert identity in seat.party._engine._outstanding
    assert state(seat) == before


def test_a_stranger_gets_no_word_from_a_node() -> None:
    scene = Scene()
    stranger = scene.domain.stranger()
    assert not stranger.meet(scene.a)
    assert scene.a.drops[Drop.TUNNEL_UNKNOWN_PEER] > 0
    assert stranger.seat.endpoint not in scene.a.bytes_out
    stranger.say(scene.a, MESSAGES[RouteDirection](scene, stranger))
    scene.domain.network.run(5.0)
    assert not stranger.heard
