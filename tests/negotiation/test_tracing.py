"""What `ntmpatch trace` collects: every party's steps of one set-up, by the node's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domain import Domain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.negotiation.tracing import lines
from ntmpatch.signalling.effects import Resolved, Unresolved
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.process import ask
from ntmpatch.signalling.recording import (
    MAX_RECORDINGS,
    MAX_RECORDINGS_PER_PEER,
    RECORDING_LIFETIME,
    Recorder,
    Step,
    merge,
)
from ntmpatch.wire.control_messages import TraceRequest, TraceResponse

if TYPE_CHECKING:
    from virtual_network import Seat

    from ntmpatch.signalling.recording import Recording

GLOBAL_A = Endpoint("198.51.100.1", 1000)
PRIVATE_B, NAT_B = Endpoint("10.0.0.2", 1000), Endpoint("203.0.113.2", 4444)
DIRECTION_STEPS = [f"3.{number}" for number in range(2, 17)]


class Trace:
    """Two domains; MN traces a set-up of a tunnel to CN."""

    def __init__(self, seed: int, *, nat: Endpoint | None = None) -> None:
        self.here = Domain(seed, name="a.example")
        self.there = Domain(seed + 1, name="b.example", beside=self.here)
        self.here.start_servers()
        self.there.start_servers()
        self.mn = self.here.start_node("mn", GLOBAL_A, nat=nat)
        self.cn = self.there.start_node("cn", PRIVATE_B, nat=NAT_B)
        self.here.register(self.mn, self.cn)
        self.network = self.here.network
        self.tracer = self.mn.party.tracer  # type: ignore[attr-defined]  # it is a node's

    def set_up(self, seconds: float = 20.0) -> tuple[Resolved | Unresolved, Recording]:
        """Direct anew and wait for the end of it."""
        party: Any = self.mn.party
        party.now = self.network.now
        recording = self.tracer.begin("cn.b.example")
        request_id = party.resolve("cn.b.example", self.network.now, recording=recording)
        return self.here.answer(self.mn, request_id, seconds), recording

    def collect(self, recording: Recording) -> tuple[list[Step], tuple[str, ...]]:
        """All parties' steps, and who told nothing."""
        results: list[tuple[list[Step], tuple[str, ...]]] = []
        self.mn.party.now = self.network.now
        self.tracer.collect(recording, lambda *result: results.append(result))
        assert self.network.run(5.0, lambda: bool(results))
        self.tracer.end("cn.b.example")
        return results[0]

    def recorders(self) -> list[Recorder]:
        return [seat.party.recorder for seat in self.network.seats.values()]


def test_all_steps_are_told_at_the_instants_at_which_they_were_sent() -> None:
    trace = Trace(21)
    before = len(trace.network.captured)
    answer, recording = trace.set_up()
    assert isinstance(answer, Resolved)
    sent_at = {
        message.envelope.step: message.at
        for message in reversed(trace.network.captured[before:])
        if message.envelope.step
    }
    steps, silent = trace.collect(recording)
    assert silent == ()
    assert [each.step for each in steps] == DIRECTION_STEPS
    # All ways take equally long here, so the clocks are set exactly. CN tells nothing, so (11) and
    # (13) are at the instant of their receiver; and so is (5), because DC_CN had yet to see from
    # (4) who asks. (3) is no message of ours.
    by_receiver = {"3.5", "3.11", "3.13"}
    for each in steps:
        if each.step != "3.3":
            way = trace.network.delays[0] if each.step in by_receiver else 0.0
            assert abs(each.at - way - sent_at[each.step]) < 2e-5, each
    by_step = {each.step: (each.sender, each.receiver) for each in steps}
    assert by_step["3.10"] == ("NS ns.b.example", "node cn.b.example")
    assert by_step["3.13"] == ("node cn.b.example", "DC dc.b.example")


def test_a_tunnel_that_is_up_is_directed_anew_and_kept_if_nothing_comes_of_it() -> None:
    trace = Trace(22)
    first, recording = trace.set_up()
    assert isinstance(first, Resolved)
    trace.collect(recording)
    second, recording = trace.set_up()
    assert isinstance(second, Resolved)
    steps, _ = trace.collect(recording)
    assert [each.step for each in steps] == [
        step for step in DIRECTION_STEPS if step not in ("3.4", "3.5")
    ]
    (note,) = {
        line["note"] for line in lines(steps, recording.began_at, (), "") if line["step"] == "3.4"
    }
    assert "share a key" in str(note)

    trace.here.coordinator.up = False
    third, recording = trace.set_up()
    assert isinstance(third, Unresolved)
    peer = trace.mn.party.peers.named("cn.b.example")  # type: ignore[attr-defined]  # a node's
    assert peer.is_up, "the tunnel that was up still is"
    steps, silent = trace.collect(recording)
    assert silent == ("DC dc.a.example",)
    told = {line["step"]: line for line in lines(steps, recording.began_at, silent, "silent")}
    assert told["3.2"]["at_ms"] == 0.0
    assert told["3.7"]["note"] == "not told by DC dc.a.example"
    assert told["3.17"]["note"] == "did not happen"


def test_parts_of_servers_that_are_older_or_gone_are_missing_by_name() -> None:
    trace = Trace(23)
    answer, recording = trace.set_up()
    assert isinstance(answer, Resolved)
    trace.there.notification_server.party._handlers.pop(TraceRequest)
    steps, silent = trace.collect(recording)
    assert silent == ("NS ns.b.example",)
    assert [each.step for each in steps] == [s for s in DIRECTION_STEPS if s != "3.10"]

    answer, recording = trace.set_up()
    trace.there.coordinator.up = False
    steps, silent = trace.collect(recording)
    assert silent == ("DC dc.b.example",)
    seen = {each.step for each in steps}
    assert {"3.8", "3.14"} <= seen
    assert not seen & {"3.9", "3.10", "3.11", "3.12", "3.13"}


def test_where_a_relay_is_needed_its_steps_of_fig_5_are_between_those_of_fig_3() -> None:
    trace = Trace(27, nat=Endpoint("203.0.113.1", 4444))
    _, recording = trace.set_up()  # relaying itself is not part of this network
    steps, silent = trace.collect(recording)
    assert silent == ()
    assert [each.step for each in steps] == [
        *(f"3.{number}" for number in range(2, 8)),
        *("5.14", "5.15"),
        *(f"3.{number}" for number in range(8, 17)),
    ]
    assert (steps[6].sender, steps[6].receiver) == ("DC dc.a.example", "RS rs.a.example")


def test_a_refusal_is_shown_where_it_happened() -> None:
    trace = Trace(24)
    party: Any = trace.mn.party
    party.now = trace.network.now
    recording = trace.tracer.begin("nobody.b.example")
    request_id = party.resolve("nobody.b.example", trace.network.now, recording=recording)
    assert isinstance(trace.here.answer(trace.mn, request_id), Unresolved)
    steps, _ = trace.collect(recording)
    assert [each.step for each in steps] == DIRECTION_STEPS[:6]
    assert steps[-1].refused
    assert not any(each.refused for each in steps[:-1])


def test_only_who_asked_for_a_recording_is_told_of_it() -> None:
    trace = Trace(25)
    other = trace.here.start_node("other", Endpoint("198.51.100.9", 1000))
    trace.here.register(other)
    _, recording = trace.set_up()
    ((coordinator, transaction_id, _),) = recording.asked
    assert isinstance(_ask(trace, other, coordinator, transaction_id), Refused)
    assert isinstance(_ask(trace, trace.mn, coordinator, transaction_id), TraceResponse)
    trace.network.run(RECORDING_LIFETIME)
    assert isinstance(_ask(trace, trace.mn, coordinator, transaction_id), Refused)


def test_without_the_flag_nothing_is_kept() -> None:
    trace = Trace(26)
    assert isinstance(trace.there.resolve(trace.mn, "cn"), Resolved)
    assert not any(trace.recorders())
    trace.set_up()
    assert sum(map(bool, trace.recorders())) == 4, "MN, both DCs and CN's NS"
    trace.tracer.end("cn.b.example")
    trace.network.run(RECORDING_LIFETIME + 1.0)
    assert not any(trace.recorders())


def test_recordings_are_few_and_forgotten() -> None:
    recorder = Recorder()
    peers = [bytes([n % 256, n // 256]) * 16 for n in range(MAX_RECORDINGS)]
    for number in range(MAX_RECORDINGS_PER_PEER + 1):
        recorder.begin(b"p" * 32, bytes([number]) * 8, 0.0)
    assert recorder.of(bytes(8)) is None, "its own oldest makes room"
    for number, peer in enumerate(peers):
        recorder.begin(peer, number.to_bytes(8), 1.0)
    assert recorder.made_for(b"p" * 32, b"\x04" * 8, 1.0) is None
    assert recorder.made_for(peers[-1], (MAX_RECORDINGS - 1).to_bytes(8), 1.0) is not None
    recorder.made_for(peers[-1], bytes(8), 1.0 + RECORDING_LIFETIME)
    assert not recorder


def test_another_clock_is_set_between_what_both_saw() -> None:
    # Their clock is 100 s ahead; the way there takes 3 and the way back 1.
    own = [Step(0.0, "3.8", "A", "B"), Step(10.0, "3.14", "B", "A")]
    told = [
        Step(103.0, "3.8", "A", "B"),
        Step(105.0, "3.12", "B", "N"),
        Step(109.0, "3.14", "B", "A"),
    ]
    merged = merge(own, told, "A")
    assert [(each.step, each.at) for each in merged] == [("3.8", 0.0), ("3.12", 4.0), ("3.14", 8.0)]
    # Of somebody whose answer goes elsewhere: (10) is before (11), which we saw.
    own = [Step(0.0, "3.9", "A", "NS"), Step(6.0, "3.11", "N", "A")]
    told = [Step(50.0, "3.9", "A", "NS"), Step(50.0, "3.10", "NS", "N")]
    assert [each.at for each in merge(own, told, "A")] == [0.0, 2.0, 6.0]


def _ask(trace: Trace, asker: Seat, peer: bytes, transaction_id: bytes) -> Any:
    results: list[Any] = []
    asker.party.now = trace.network.now
    asker.party.start(
        ask(peer, TraceRequest(transaction_id), TraceResponse),
        lambda answer, error: results.append(answer or error),
    )
    assert trace.network.run(10.0, lambda: bool(results))
    return results[0]
