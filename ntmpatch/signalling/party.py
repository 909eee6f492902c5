"""A party: whoever speaks control messages. Node, AS, DC, NS and RS derive from it.

Bytes, instants and results of jobs go in; control payloads and effects come out. Requests are
dispatched to handlers by their type; a handler is a function or a process, and what it returns is
the answer. A request to oneself takes the same way, without the network.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, cast

from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.base.errors import UntrustedError
from ntmpatch.base.timers import TimerQueue
from ntmpatch.signalling.admission import Admission
from ntmpatch.signalling.effects import Effect, Failed, Forget, Noted, Traced, Work
from ntmpatch.signalling.engine import Outcome, Request, TransactionEngine
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.figures import ANSWERS, TITLES
from ntmpatch.signalling.process import Ask, Event, Process, Sleep, Waits
from ntmpatch.signalling.recording import RECORDING_LIFETIME, Recorder, Recording, Step
from ntmpatch.wire.control import Envelope, Kind, UnknownMessage, decode_untrusted
from ntmpatch.wire.control_messages import Message, Refusal, RefusalCode

if TYPE_CHECKING:
    import random

    from ntmpatch.base.addresses import Endpoint

MAX_PROCESSES = 16384
"""Processes at once; beyond, requests are refused as BUSY."""

M = TypeVar("M", bound=Message)


@dataclass(slots=True, frozen=True)
class Reply:
    """An answer that is not simply the response to who asked.

    ``message`` None: nothing is sent (something else answers), and duplicates are suppressed.
    """

    message: Message | None = None
    to: bytes | None = None
    step: str = ""
    kind: Kind | None = None


Answer: TypeAlias = Message | Reply
Handler: TypeAlias = Callable[[Any, Request], "Answer | Process[Answer]"]


@dataclass(slots=True, eq=False)
class _Running:
    """A process under way, and what happens with its result."""

    generator: Generator[Waits, Any, Any]
    done: Callable[[Any, Exception | None], None]
    event: Event | None = None
    """What it waits for, if that has a time-out of its own."""
    recording: Recording | None = None
    """Where the steps of its requests are noted."""


class Party:
    """Base of all parties. ``receive`` only takes what the channel has authenticated."""

    role = "party"
    provisional_limit = 0
    """Strangers that may be in the tunnel's table at once; a node lets in none."""
    records_for_others = False
    """Whether requests that ask for a recording get one (signalling/recounting.py)."""
    answered_while_draining: ClassVar[frozenset[type[Message]]] = frozenset()
    """Requests that concern what is served already."""

    def __init__(
        self,
        public_key: bytes,
        *,
        name: str,
        now: float,
        rng: random.Random,
        wall_clock: Callable[[], float],
        entropy: Callable[[int], bytes] = os.urandom,
        drops: DropCounter | None = None,
    ) -> None:
        self.public_key = public_key
        self.name = name
        self.now = now
        self.rng = rng
        self.entropy = entropy
        self.wall_clock = wall_clock
        """Seconds since 1970, for validity of certificates and tokens only."""
        self.drops = DropCounter() if drops is None else drops
        self.sources: dict[bytes, Endpoint] = {}
        """Where each peer was last seen, as the runtime told."""
        self.admission = Admission(self.provisional_limit)
        self.traced = True
        """Whether somebody wants to be told of every message (Traced effects)."""
        self.draining = False
        self.answers: Counter[tuple[str, str]] = Counter()
        """Requests so far by message and outcome: ``answered``, or the code of the refusal."""
        self._names: dict[bytes, str] = {}
        self._handlers: dict[type[Message], Handler] = {}
        self._engine = TransactionEngine(rng=rng, entropy=entropy, drops=self.drops)
        self._effects: deque[Effect] = deque()
        self._outbox: deque[tuple[bytes, bytes]] = deque()
        self._loopback: deque[bytes] = deque()
        self._asking: dict[bytes, _Running] = {}
        self._working: dict[Work, _Running] = {}
        self._timers: TimerQueue[_Running] = TimerQueue()
        self._calls: TimerQueue[str] = TimerQueue()
        self._callbacks: dict[str, Callable[[], None]] = {}
        self._running = 0
        self._answering = 0
        self._pumping = False
        self.recorder = Recorder()
        self._recording: Recording | None = None
        """Of the process that runs at this moment."""

    # --- what the runtime calls --------------------------------------------------------

    def receive(
        self,
        peer: bytes,
        payload: bytes | memoryview,
        now: float,
        source: Endpoint | None = None,
    ) -> None:
        """Take one control payload (0xC0 first) that ``peer``'s channel delivered."""
        self.now = now
        if source is not None:
            self.sources[peer] = source
        self._receive(peer, payload)
        self._pump()

    def poll_transmit(self) -> tuple[bytes, bytes] | None:
        """The next control payload to send: (peer key, payload)."""
        return self._outbox.popleft() if self._outbox else None

    def poll_effect(self) -> Effect | None:
        """The next thing for the runtime to do or to know."""
        return self._effects.popleft() if self._effects else None

    def poll_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called next; None: only after other input."""
        instants = (
            self._engine.poll_timeout(),
            self._timers.earliest(),
            self._calls.earliest(),
            self.admission.poll_timeout(),
        )
        return min((instant for instant in instants if instant is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Do what is due at ``now``."""
        self.now = now
        for outcome in self._engine.handle_timeout(now):
            self._conclude(outcome)
        for running in self._timers.pop_due(now):
            if running.event is not None:
                running.event = None
                self._advance(running, None, Silent("nothing happened in time"))
            else:
                self._advance(running, None, None)
        for name in self._calls.pop_due(now):
            self._callbacks.pop(name)()
        self.admission.expire(now, self.part)
        self._pump()

    def complete(self, job: Work, outcome: Any, now: float) -> None:
        """A job is done; ``outcome`` is its result, or the exception it raised."""
        self.now = now
        running = self._working.pop(job, None)
        if running is None:
            return
        if isinstance(outcome, Exception):
            self._advance(running, None, outcome)
        else:
            self._advance(running, outcome, None)
        self._pump()

    def admit(self, peer: bytes, now: float) -> bool:
        """Whether the tunnel may let in this unknown key for a while."""
        self.now = now
        return self.admission.admits(peer)

    def admitted(self, peer: bytes, now: float) -> None:
        """The tunnel let in an unknown key."""
        self.now = now
        self.admission.admitted(peer, now)

    def trace(self, step: str, at: float, receiver: str = "", message: str = "") -> None:
        """Note a step that is no control message, as Fig. 3 (1), (17)-(21); perhaps afterwards."""
        self.now = max(self.now, at)
        me = self.title
        if self._recording is not None:
            self._recording.note(Step(at, step, me, receiver or me))
        self.emit(Traced(at, step, me, receiver or me, message, sent=True))

    def peer_name(self, peer: bytes) -> str:
        """Role and name of a peer for people; of strangers, the beginning of the key."""
        if peer == self.public_key:
            return self.title
        return self._names.get(peer) or f"stranger {peer[:4].hex()}"

    @property
    def title(self) -> str:
        """Role and name of this party for people."""
        return f"{self.role} {self.name}".strip()

    # --- ending ------------------------------------------------------------------------

    def drain(self, now: float) -> None:
        """Take nothing new from now on; `is_idle` says when what is under way has ended."""
        self.now = now
        self.draining = True

    def leave(self, now: float) -> None:
        """Tell those who should know that this party is gone; `has_told` once that is done."""
        self.now = now

    @property
    def has_told(self) -> bool:
        """Whether everybody knows what is to be known about our end."""
        return not self._outbox

    @property
    def is_idle(self) -> bool:
        """Whether all requests are answered, so that a party that drains may end."""
        return not self._answering and not self._outbox

    # --- what parties are made of ------------------------------------------------------

    def on(
        self, message_type: type[M], handler: Callable[[M, Request], Answer | Process[Answer]]
    ) -> None:
        """Let ``handler`` answer requests of this type."""
        self._handlers[message_type] = cast("Handler", handler)

    def permits(self, peer: bytes, message: Message) -> bool:  # noqa: ARG002 - for parties to say
        """Whether ``peer`` may ask this at all; if not, it is refused as NOT_AUTHORISED.

        Refused: it may not, for a reason of its own.
        """
        return True

    def introduce(self, peer: bytes, role: str, name: str) -> None:
        """Remember what to call a peer in traces."""
        self._names[peer] = f"{role} {name}"

    def forget(self, peer: bytes) -> None:
        """Drop all that is kept for a peer here; its channel stays."""
        self._names.pop(peer, None)
        self.admission.remove(peer)
        self.sources.pop(peer, None)
        self._engine.forget(peer)

    def part(self, peer: bytes) -> None:
        """Forget a peer, and remove its channel."""
        self.forget(peer)
        self.emit(Forget(peer))

    def emit(self, effect: Effect) -> None:
        """Hand an effect to the runtime."""
        self._effects.append(effect)

    def note(self, event: str, *, level: str = "info", **fields: object) -> None:
        """Have an event logged; no field may hold a secret."""
        self.emit(Noted(event, fields, level))

    def start(
        self,
        process: Process[Any],
        done: Callable[[Any, Exception | None], None] | None = None,
        *,
        what: str = "",
        recording: Recording | None = None,
    ) -> None:
        """Run a process; without ``done`` its failure becomes a Failed effect."""

        def report(_: Any, error: Exception | None) -> None:
            if error is not None:
                self.emit(Failed(error, what or getattr(process, "__name__", "process")))

        self._running += 1
        self._advance(_Running(process, done or report, recording=recording), None, None)
        self._pump()

    def call_at(self, name: str, due_at: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` at ``due_at``, instead of what was arranged under ``name`` before."""
        self._callbacks[name] = callback
        self._calls.arm(name, due_at)

    def call_off(self, name: str) -> None:
        """Forget what was arranged under ``name``."""
        self._callbacks.pop(name, None)
        self._calls.cancel(name)

    def conclude(self, peer: bytes, transaction_id: bytes, message: Message) -> bool:
        """End a transaction of ours by a message that is not its response; whether it awaited."""
        outcome = self._engine.conclude(peer, transaction_id, message)
        if outcome is not None:
            self._conclude(outcome)
        return outcome is not None

    def record_with(self, transaction_id: bytes, request: Request) -> None:
        """A request that came belongs to an earlier transaction, and to its recording if any."""
        recording = self.recorder.of(transaction_id)
        if recording is not None:
            recording.note(Step(self.now, request.step, self.peer_name(request.peer), self.title))
            self.recorder.join(recording, request.transaction_id)

    # --- inside ------------------------------------------------------------------------

    def _receive(self, peer: bytes, payload: bytes | memoryview) -> None:
        try:
            envelope = decode_untrusted(payload)
        except UntrustedError as error:
            self.drops.drop(error.drop)
            return
        arrived = self._engine.receive(peer, envelope, self.now)
        if arrived is None:
            return
        if envelope.record and isinstance(arrived, Request):
            self._record_for(arrived)
        self._trace_message(envelope, peer, sent=False)
        if isinstance(arrived, Outcome):
            self._conclude(arrived)
        else:
            self._dispatch(arrived)

    def _record_for(self, request: Request) -> None:
        if not self.records_for_others or request.peer not in self.admission:
            return
        if self.recorder.of(request.transaction_id) is None:  # else we asked ourselves
            self.recorder.begin(request.peer, request.transaction_id, self.now)
            expires_at = self.now + RECORDING_LIFETIME
            self.call_at("recordings", expires_at, lambda: self.recorder.expire(self.now))

    def _dispatch(self, request: Request) -> None:
        handler = self._handlers.get(type(request.message))
        if handler is None:
            if isinstance(request.message, UnknownMessage):
                text = f"unknown message {request.message.unknown_tag}"
            else:
                text = f"{self.role} does not answer {type(request.message).__name__}"
            self._refuse(request, Refusal(RefusalCode.UNSUPPORTED, text))
        elif request.peer != self.public_key and (refusal := self._objection(request)) is not None:
            self._refuse(request, refusal)
        elif self._running >= MAX_PROCESSES:
            self._refuse(request, Refusal(RefusalCode.BUSY))
        elif self.draining and not self._is_under_way(request):
            self._refuse(request, Refusal(RefusalCode.BUSY, "this server is about to end"))
        else:
            self._handle(handler, request)

    def _objection(self, request: Request) -> Refusal | None:
        """Why the peer may not ask this; None: it may."""
        try:
            if self.permits(request.peer, request.message):
                return None
        except Refused as refusal:
            return refusal.message()
        self.drops.drop(Drop.CONTROL_STRANGER)
        return Refusal(RefusalCode.NOT_AUTHORISED)

    def _is_under_way(self, request: Request) -> bool:
        """Whether a request belongs to what was begun before we began to drain."""
        # What we ask ourselves is part of a request that somebody else is waiting for.
        ours = request.peer == self.public_key
        return ours or type(request.message) in self.answered_while_draining

    def _handle(self, handler: Handler, request: Request) -> None:
        self._answering += 1

        def done(result: Any, error: Exception | None) -> None:
            self._answering -= 1
            if error is None:
                self.answers[type(request.message).__name__, "answered"] += 1
                self._answer(request, result)
            elif isinstance(error, Refused):
                self._refuse(request, error.message())
            elif isinstance(error, Silent):
                self._refuse(request, Refusal(RefusalCode.UNREACHABLE, str(error)[:200]))
            else:
                self.emit(Failed(error, f"answering {type(request.message).__name__}"))
                self._refuse(request, Refusal(RefusalCode.FAILED))

        try:
            result = handler(request.message, request)
        except Exception as error:
            done(None, error)
            return
        if isinstance(result, Generator):
            self._running += 1
            recording = self.recorder.of(request.transaction_id)
            self._advance(_Running(result, done, recording=recording), None, None)
        else:
            done(result, None)

    def _refuse(self, request: Request, refusal: Refusal) -> None:
        message, reason = type(request.message).__name__, refusal.reason.name.lower()
        self.answers[message, reason] += 1
        self.note(
            "refused",
            request=message,
            peer=self.peer_name(request.peer),
            reason=reason,
            text=refusal.text,
        )
        self._answer(request, refusal)

    def _answer(self, request: Request, answer: Answer) -> None:
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        step = reply.step or ANSWERS.get(request.step, "")
        try:
            self._engine.answer(request, reply.message, step, to=reply.to, kind=reply.kind)
        except ValueError as too_large:
            self.emit(Failed(too_large, f"answering {type(request.message).__name__}"))
            self._engine.answer(request, Refusal(RefusalCode.FAILED), step)

    def _conclude(self, outcome: Outcome) -> None:
        running = self._asking.pop(outcome.transaction_id, None)
        if running is None:
            return
        message = outcome.message
        if message is None:
            who = self.peer_name(outcome.peer)
            self._advance(running, None, Silent(f"{who} does not answer"))
        elif isinstance(message, Refusal):
            self._advance(running, None, Refused(message.reason, message.text))
        else:
            self._advance(running, message, None)

    def _advance(self, running: _Running, value: Any, error: Exception | None) -> None:
        """Run a process until it waits for something, or ends."""
        outer, self._recording = self._recording, running.recording
        try:
            self._run_on(running, value, error)
        finally:
            self._recording = outer

    def _run_on(self, running: _Running, value: Any, error: Exception | None) -> None:
        while True:
            try:
                if error is not None:
                    waits = running.generator.throw(error)
                else:
                    waits = running.generator.send(value)
            except StopIteration as stop:
                self._running -= 1
                running.done(stop.value, None)
                return
            except Exception as failure:
                self._running -= 1
                running.done(None, failure)
                return
            value = error = None
            if isinstance(waits, Ask):
                recording = running.recording if waits.step else None
                try:
                    transaction_id = self._engine.ask(
                        waits.peer,
                        waits.message,
                        waits.step,
                        self.now,
                        timeout=waits.timeout,
                        answerers=waits.answerers,
                        record=recording is not None,
                    )
                except ValueError as too_large:
                    error = too_large
                    continue
                if transaction_id is not None:
                    if recording is not None:
                        recording.asked.append((waits.peer, transaction_id, waits.step))
                        self.recorder.join(recording, transaction_id)
                    self._asking[transaction_id] = running
                    return
                error = Refused(RefusalCode.BUSY, "too many requests under way")
            elif isinstance(waits, Work):
                self._working[waits] = running
                self.emit(waits)
                return
            elif isinstance(waits, Sleep):
                self._timers.arm(running, self.now + waits.interval)
                return
            elif not waits.event.is_set:
                running.event = waits.event
                waits.event.waiting.append(self._resumer(running))
                self._timers.arm(running, self.now + waits.timeout)
                return
            elif isinstance(waits.event.value, Exception):
                error = waits.event.value
            else:
                value = waits.event.value

    def _resumer(self, running: _Running) -> Callable[[Event], None]:
        def resume(event: Event) -> None:
            if running.event is not event:
                return  # its time-out came first
            running.event = None
            self._timers.cancel(running)
            if isinstance(event.value, Exception):
                self._advance(running, None, event.value)
            else:
                self._advance(running, event.value, None)

        return resume

    def _pump(self) -> None:
        """Move transmissions to the outbox; deliver to ourselves what is for ourselves."""
        if self._pumping:
            return
        self._pumping = True
        try:
            transmissions = self._engine.transmissions
            while transmissions or self._loopback:
                while transmissions:
                    transmission = transmissions.popleft()
                    if transmission.envelope is not None:
                        self._trace_message(transmission.envelope, transmission.peer, sent=True)
                    if transmission.peer == self.public_key:
                        self._loopback.append(transmission.payload)
                    else:
                        self._outbox.append((transmission.peer, transmission.payload))
                if self._loopback:
                    self._receive(self.public_key, self._loopback.popleft())
        finally:
            self._pumping = False

    def _trace_message(self, envelope: Envelope, peer: bytes, *, sent: bool) -> None:
        if not self.traced and not self.recorder:
            return
        me, other = self.title, self.peer_name(peer)
        sender, receiver = (me, other) if sent else (other, me)
        if self.recorder and envelope.step in TITLES:
            recording = self.recorder.of(envelope.transaction_id)
            if recording is not None:
                refused = envelope.kind is Kind.REFUSAL
                recording.note(Step(self.now, envelope.step, sender, receiver, refused))
        if not self.traced:
            return
        self.emit(
            Traced(
                at=self.now,
                step=envelope.step,
                sender=sender,
                receiver=receiver,
                message=type(envelope.message).__name__,
                sent=sent,
                transaction_id=envelope.transaction_id,
            )
        )
