"""Transactions over a lossy channel: asked until answered, run once, bounded in every way."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.signalling import engine as engine_module
from ntmpatch.signalling.engine import Outcome, Request, TransactionEngine
from ntmpatch.wire.control import Envelope, Kind, decode_untrusted
from ntmpatch.wire.control_messages import (
    Ack,
    DirectionRequest,
    Notification,
    NotificationRequest,
    Refusal,
)

if TYPE_CHECKING:
    import pytest

NODE, DC, NS = b"n" * 32, b"d" * 32, b"s" * 32
QUESTION = DirectionRequest("b.home.example")


def make_engine() -> TransactionEngine:
    rng = random.Random(5)
    return TransactionEngine(rng=rng, entropy=rng.randbytes, drops=DropCounter())


def sent(engine: TransactionEngine) -> list[tuple[bytes, Envelope]]:
    """What the engine wants to send, taken from it."""
    transmissions = [(t.peer, decode_untrusted(t.payload)) for t in engine.transmissions]
    engine.transmissions.clear()
    return transmissions


def run_down(engine: TransactionEngine) -> tuple[list[float], list[Outcome]]:
    """Let time pass until nothing is due: when something was sent, and how all ended."""
    sent_at, outcomes = [], []
    for _ in range(1000):
        due_at = engine.poll_timeout()
        if due_at is None:
            return sent_at, outcomes
        outcomes += engine.handle_timeout(due_at)
        sent_at += [due_at] * len(sent(engine))
    raise AssertionError("timers never rest")


def request_from(engine: TransactionEngine, peer: bytes, envelope: Envelope) -> Request:
    request = engine.receive(peer, envelope, 0.0)
    assert isinstance(request, Request)
    return request


def test_a_question_is_repeated_with_back_off_and_jitter_until_its_time_is_over() -> None:
    engine = make_engine()
    engine.ask(DC, QUESTION, "3.2", 0.0, timeout=8.0)
    assert [peer for peer, _ in sent(engine)] == [DC]
    sent_at, outcomes = run_down(engine)
    gaps = [later - earlier for earlier, later in zip([0.0, *sent_at], sent_at, strict=False)]
    ceilings = [0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert all(0.74 * c <= g <= c for g, c in zip(gaps, ceilings, strict=False))
    assert 8 <= len(sent_at) <= 12
    (outcome,) = outcomes
    assert (outcome.peer, outcome.message) == (DC, None)


def test_an_answer_ends_the_question_and_a_second_one_is_a_named_drop() -> None:
    engine = make_engine()
    transaction_id = engine.ask(DC, QUESTION, "3.2", 0.0)
    assert transaction_id
    answer = Envelope(transaction_id, Kind.RESPONSE, "", Ack())
    assert engine.receive(DC, answer, 0.1) == Outcome(transaction_id, DC, "3.2", Ack())
    assert engine.receive(DC, answer, 0.2) is None
    assert engine.drops[Drop.CONTROL_UNEXPECTED] == 1
    assert engine.poll_timeout() is None


def test_an_answer_of_another_peer_does_not_count_unless_it_was_said_to() -> None:
    engine = make_engine()
    transaction_id = engine.ask(DC, QUESTION, "3.2", 0.0)
    assert transaction_id
    assert engine.receive(NS, Envelope(transaction_id, Kind.RESPONSE, "", Ack()), 0.1) is None
    transaction_id = engine.ask(NS, NotificationRequest(NODE), "3.9", 0.0, answerers=(NODE,))
    assert transaction_id
    assert engine.receive(NODE, Envelope(transaction_id, Kind.RESPONSE, "", Ack()), 0.1)


def test_a_repeated_question_is_run_once_and_answered_each_time() -> None:
    engine = make_engine()
    question = Envelope(b"12345678", Kind.REQUEST, "3.2", QUESTION)
    request = request_from(engine, NODE, question)
    assert engine.receive(NODE, question, 0.3) is None
    assert sent(engine) == []  # still under way
    engine.answer(request, Refusal(3), "")
    assert engine.receive(NODE, question, 0.6) is None
    expected = (NODE, Envelope(b"12345678", Kind.REFUSAL, "", Refusal(3)))
    assert sent(engine) == [expected, expected]


def test_a_question_that_went_on_to_another_goes_on_again_when_repeated() -> None:
    engine = make_engine()  # the NS of Fig. 3 (9), (10)
    question = Envelope(b"12345678", Kind.REQUEST, "3.9", NotificationRequest(NODE))
    request = request_from(engine, DC, question)
    engine.answer(request, Notification(DC), "3.10", to=NODE, kind=Kind.REQUEST)
    engine.receive(DC, question, 0.3)
    expected = (NODE, Envelope(b"12345678", Kind.REQUEST, "3.10", Notification(DC)))
    assert sent(engine) == [expected, expected]


def test_a_silently_answered_question_stays_silent_when_repeated() -> None:
    engine = make_engine()
    question = Envelope(b"12345678", Kind.REQUEST, "3.2", QUESTION)
    engine.answer(request_from(engine, NODE, question), None, "")
    assert engine.receive(NODE, question, 0.3) is None
    assert sent(engine) == []


def test_one_peer_cannot_have_more_than_its_share_under_way() -> None:
    engine = make_engine()
    limit = engine_module.MAX_SERVED_PER_PEER
    questions = [
        Envelope(number.to_bytes(8), Kind.REQUEST, "", QUESTION) for number in range(limit + 1)
    ]
    requests = [request_from(engine, NODE, question) for question in questions[:-1]]
    assert engine.receive(NODE, questions[-1], 0.0) is None
    assert engine.drops[Drop.CONTROL_TOO_MANY] == 1
    assert isinstance(engine.receive(DC, questions[-1], 0.0), Request)
    # An answered one makes room.
    engine.answer(requests[0], Ack(), "")
    assert isinstance(engine.receive(NODE, questions[-1], 0.0), Request)


def test_answers_are_kept_for_a_bounded_time_and_in_bounded_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "MAX_SERVED", 100)
    engine = make_engine()
    for number in range(1000):
        peer = (number % 50).to_bytes(32)
        question = Envelope(number.to_bytes(8), Kind.REQUEST, "", QUESTION)
        request = engine.receive(peer, question, number / 1000)
        assert isinstance(request, Request)
        engine.answer(request, Ack(), "")
        sent(engine)
        assert engine._served_count <= 101
    late = Envelope(b"87654321", Kind.REQUEST, "", QUESTION)
    engine.receive(NODE, late, 2.0 + engine_module.ANSWER_LIFETIME)
    assert engine._served_count == 1
    assert len(engine._served) == len(engine._served_order) == 1


def test_questions_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_OUTSTANDING", 3)
    engine = make_engine()
    assert all(engine.ask(DC, QUESTION, "", 0.0) for _ in range(3))
    assert engine.ask(DC, QUESTION, "", 0.0) is None
