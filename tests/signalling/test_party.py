"""Parties: handlers and processes, refusals, jobs, and speaking to oneself."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from ntmpatch.base.drops import Drop
from ntmpatch.signalling.admission import PROVISIONAL_TIMEOUT
from ntmpatch.signalling.effects import Failed, Forget, Traced, Work
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.party import Party
from ntmpatch.signalling.process import Event, Process, ask, sleep, wait, work
from ntmpatch.wire.control import Envelope, Kind, decode_untrusted, encode
from ntmpatch.wire.control_messages import (
    Ack,
    DirectionRequest,
    InformationRequest,
    Message,
    Refusal,
    RefusalCode,
)

if TYPE_CHECKING:
    from ntmpatch.signalling.engine import Request

ME, PEER = b"m" * 32, b"p" * 32
QUESTION = DirectionRequest("b.home.example")


class Talker(Party):
    """A party whose handler of DirectionRequest is given."""

    role = "talker"
    provisional_limit = 2

    def __init__(self, handler: Any = None) -> None:
        rng = random.Random(3)
        super().__init__(
            ME, name="me", now=0.0, rng=rng, wall_clock=lambda: 0.0, entropy=rng.randbytes
        )
        if handler is not None:
            self.on(DirectionRequest, handler)

    def permits(self, peer: bytes, message: Message) -> bool:  # noqa: ARG002 - one rule for all
        return peer != b"x" * 32

    def effects(self, kind: type) -> list[Any]:
        found = []
        while (effect := self.poll_effect()) is not None:
            found.append(effect)
        return [effect for effect in found if isinstance(effect, kind)]

    def hear(self, message: Message, *, peer: bytes = PEER, step: str = "") -> Message | None:
        """What is answered at once to a request."""
        self.receive(peer, encode(Envelope(b"12345678", Kind.REQUEST, step, message)), self.now)
        return self.answer()

    def answer(self) -> Message | None:
        transmit = self.poll_transmit()
        return None if transmit is None else decode_untrusted(transmit[1]).message


def test_a_handler_answers_by_what_it_returns_or_raises() -> None:
    def refuse(_: DirectionRequest, __: Request) -> Ack:
        raise Refused(RefusalCode.UNKNOWN_NAME, "who?")

    assert Talker(lambda *_: Ack()).hear(QUESTION) == Ack()
    assert Talker(refuse).hear(QUESTION) == Refusal(RefusalCode.UNKNOWN_NAME, "who?")


def test_a_handler_that_breaks_refuses_and_tells_the_runtime() -> None:
    talker = Talker(lambda *_: {}["missing"])
    assert talker.hear(QUESTION) == Refusal(RefusalCode.FAILED)
    (failed,) = talker.effects(Failed)
    assert isinstance(failed.error, KeyError)


def test_unknown_unanswered_and_forbidden_messages_are_refused() -> None:
    talker = Talker(lambda *_: Ack())
    # An Ack is [1], two bytes; the message in its place is two bytes as well, of tag 100.
    frame = encode(Envelope(b"12345678", Kind.REQUEST, "", Ack()))[:16]
    talker.receive(PEER, frame + msgspec.msgpack.encode([100]), 0.0)
    answer = talker.answer()
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalCode.UNSUPPORTED
    other = Talker().hear(QUESTION)
    assert isinstance(other, Refusal)
    assert other.reason is RefusalCode.UNSUPPORTED
    forbidden = talker.hear(QUESTION, peer=b"x" * 32)
    assert isinstance(forbidden, Refusal)
    assert forbidden.reason is RefusalCode.NOT_AUTHORISED
    assert talker.drops[Drop.CONTROL_STRANGER] == 1


def test_a_broken_payload_is_counted_and_not_answered() -> None:
    talker = Talker(lambda *_: Ack())
    talker.receive(PEER, b"\xc0 nonsense that is long enough", 0.0)
    assert talker.answer() is None
    assert talker.drops[Drop.CONTROL_VERSION] == 1


def test_a_process_waits_for_jobs_and_its_answer_comes_then() -> None:
    def handler(_: DirectionRequest, __: Request) -> Process[Ack]:
        assert (yield from work(lambda: 42, "sum")) == 42
        with pytest.raises(OSError, match="disk"):
            yield from work(lambda: None, "write")
        yield from sleep(2.0)
        return Ack()

    talker = Talker(handler)
    assert talker.hear(QUESTION) is None
    (job,) = talker.effects(Work)
    talker.complete(job, job.run(), 1.0)
    (job,) = talker.effects(Work)
    talker.complete(job, OSError("disk"), 1.5)
    assert talker.answer() is None
    assert talker.poll_timeout() == 3.5
    talker.handle_timeout(3.5)
    assert talker.answer() == Ack()
    talker.complete(job, None, 4.0)  # once more: nobody waits


def test_processes_wait_together_for_an_event_or_for_their_time() -> None:
    event = Event()
    results: list[Any] = []

    def waiter(timeout: float) -> Process[Any]:
        return (yield from wait(event, timeout))

    talker = Talker()
    for timeout in (1.0, 5.0, 5.0):
        talker.start(waiter(timeout), lambda value, error: results.append(value or error))
    talker.handle_timeout(1.0)
    assert isinstance(results[0], Silent)
    event.set("here")
    event.set("again")
    assert results[1:] == ["here", "here"]
    assert talker.poll_timeout() is None
    talker.start(waiter(1.0), lambda value, _: results.append(value))
    assert results[3] == "here"


def test_silence_refusal_and_a_wrong_answer_are_raised_in_who_asked() -> None:
    talker = Talker()
    errors: list[Any] = []
    for _ in range(3):
        talker.start(ask(PEER, QUESTION, Ack), lambda _, error: errors.append(error))
    ids = []
    while (transmit := talker.poll_transmit()) is not None:
        ids.append(decode_untrusted(transmit[1]).transaction_id)
    refusal = Envelope(ids[0], Kind.REFUSAL, "", Refusal(RefusalCode.BUSY, "later"))
    talker.receive(PEER, encode(refusal), 0.1)
    talker.receive(PEER, encode(Envelope(ids[1], Kind.RESPONSE, "", QUESTION)), 0.1)
    for _ in range(50):
        talker.handle_timeout(talker.poll_timeout() or 100.0)
    assert (errors[0].code, str(errors[0])) == (RefusalCode.BUSY, "later")
    assert errors[1].code is RefusalCode.UNSUPPORTED
    assert isinstance(errors[2], Silent)


def test_a_question_to_oneself_takes_the_way_of_all_questions_without_the_network() -> None:
    def both(message: DirectionRequest, _: Request) -> Process[Message]:
        return (yield from ask(ME, InformationRequest(message.fqdn, b""), Ack, "3.6"))

    talker = Talker(both)
    talker.on(InformationRequest, lambda *_: Ack())
    assert talker.hear(QUESTION, step="3.2") == Ack()
    assert talker.answer() is None
    steps = [(t.step, t.sent) for t in talker.effects(Traced)]
    assert steps == [
        ("3.2", False), ("3.6", True), ("3.6", False), ("3.7", True), ("3.7", False), ("", True)
    ]  # fmt: skip


def test_strangers_are_few_and_forgotten_unless_they_show_who_they_are() -> None:
    talker = Talker()
    first, second, third = (bytes([n]) * 32 for n in (1, 2, 3))
    for key in (first, second):
        assert talker.admit(key, 0.0)
        talker.admitted(key, 0.0)
    assert not talker.admit(third, 0.0)
    talker.admission.confirm(first)
    assert talker.admit(third, 0.0)
    assert talker.poll_timeout() == PROVISIONAL_TIMEOUT
    talker.handle_timeout(PROVISIONAL_TIMEOUT)
    assert talker.effects(Forget) == [Forget(second)]
    assert first in talker.admission
