"""Recordings of a tunnel's set-up: what each party saw of the figures' steps, and when.

A request may ask for one by a flag of its envelope (wire/control.py). A server then keeps, for a
short while, the instants of all steps that it sends or receives while it answers; what it asks of
others on the way bears the flag as well, so that they do the same. `ntmpatch trace` collects them
afterwards (signalling/recounting.py). Without the flag nothing is kept.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

from ntmpatch.signalling.figures import ANSWERS
from ntmpatch.wire.control_messages import TraceResponse
from ntmpatch.wire.control_parts import SeenStep

RECORDING_LIFETIME = 30.0
"""Seconds for which a server keeps a recording."""
MAX_RECORDINGS = 1024
MAX_RECORDINGS_PER_PEER = 32
"""A coordinator has three for each set-up that a node of its domain traces."""
MAX_STEPS = 40
MAX_PARTIES = 8
MAX_TITLE_SIZE = 48
"""Bytes of a party's name in a response: 8 of them and 40 steps fit one datagram."""


class Step(NamedTuple):
    """One step; ``at`` is an instant of whoever's clock it is, in seconds."""

    at: float
    step: str
    """``3.8`` for Fig. 3 (8)."""
    sender: str
    receiver: str
    refused: bool = False
    """It answers, and says no."""


class Recording:
    """The steps of one set-up as one party sees them, in order."""

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.steps: list[Step] = []
        self.asked: list[tuple[bytes, bytes, str]] = []
        """Peer, transaction and step of each recorded request to somebody else."""

    def note(self, step: Step) -> None:
        """Add a step; of one that a party tells itself, only that it was sent."""
        known = step.sender == step.receiver and any(
            (each.step, each.sender, each.receiver) == (step.step, step.sender, step.receiver)
            for each in self.steps
        )
        if not known and len(self.steps) < MAX_STEPS:
            self.steps.append(step)


class Recorder:
    """The recordings of one party, by transaction. Bounded, whoever asks for how many."""

    def __init__(self) -> None:
        self._by_transaction: dict[bytes, Recording] = {}
        self._kept: OrderedDict[tuple[bytes, bytes], tuple[Recording, list[bytes]]] = OrderedDict()
        """By who asked and its transaction: the recording and all transactions of it."""

    def __bool__(self) -> bool:
        """Whether anything is being recorded."""
        return bool(self._by_transaction)

    def begin(self, peer: bytes, transaction_id: bytes, now: float) -> Recording:
        """Record from now on what belongs to this transaction, which ``peer`` began."""
        self.expire(now)
        of_peer = [key for key in self._kept if key[0] == peer]
        if len(of_peer) >= MAX_RECORDINGS_PER_PEER:
            self._drop(of_peer[0])
        elif len(self._kept) >= MAX_RECORDINGS:
            self._drop(next(iter(self._kept)))
        recording = Recording(now)
        self._kept[peer, transaction_id] = recording, [transaction_id]
        self._by_transaction[transaction_id] = recording
        return recording

    def join(self, recording: Recording, transaction_id: bytes) -> None:
        """This transaction belongs to ``recording`` as well."""
        for kept, transactions in self._kept.values():
            if kept is recording:
                transactions.append(transaction_id)
                self._by_transaction[transaction_id] = recording

    def of(self, transaction_id: bytes) -> Recording | None:
        """What a transaction is recorded in, if it is."""
        return self._by_transaction.get(transaction_id)

    def made_for(self, peer: bytes, transaction_id: bytes, now: float) -> Recording | None:
        """What ``peer`` asked to be recorded with this transaction, if it is still kept."""
        self.expire(now)
        kept = self._kept.get((peer, transaction_id))
        return kept[0] if kept is not None else None

    def end(self, recording: Recording) -> None:
        """Keep it no longer."""
        for key, (kept, _) in list(self._kept.items()):
            if kept is recording:
                self._drop(key)

    def expire(self, now: float) -> None:
        """Forget what is older than `RECORDING_LIFETIME`."""
        while self._kept:
            key, (recording, _) = next(iter(self._kept.items()))
            if now < recording.began_at + RECORDING_LIFETIME:
                return
            self._drop(key)

    def _drop(self, key: tuple[bytes, bytes]) -> None:
        _, transactions = self._kept.pop(key)
        for transaction_id in transactions:
            self._by_transaction.pop(transaction_id, None)


def merge(own: list[Step], told: list[Step], me: str) -> list[Step]:
    """Both lists in one, by our clock: what another party saw, set between what both saw.

    The clocks share no zero. A step is seen by its receiver after its sender, which bounds the
    difference from both sides, and each way on the network is taken to be as long as the others.
    A step that both saw is at its sender's instant.
    """
    mine = list(own)
    pairs: list[tuple[int, Step]] = []
    news: list[Step] = []
    low, high, ways_back = -math.inf, math.inf, 1
    for theirs in told:
        taken = {index for index, _ in pairs}
        index = next(
            (i for i, each in enumerate(mine) if i not in taken and _same(each, theirs)), None
        )
        if index is not None:
            pairs.append((index, theirs))
            shift = mine[index].at - theirs.at
            if mine[index].sender == me:
                low = max(low, shift)
            elif shift < high:
                high, ways_back = shift, 1
            continue
        news.append(theirs)
        answer = ANSWERS.get(theirs.step)
        for each in mine:
            # It went on to somebody who answered us, as Fig. 3 (10): two ways until (11) came.
            if each.step == answer and each.receiver == me and each.at - theirs.at < high:
                high, ways_back = each.at - theirs.at, 2
    if math.isinf(low) or math.isinf(high):
        shift = next((bound for bound in (low, high) if math.isfinite(bound)), 0.0)
    else:
        shift = low + (high - low) / (1 + ways_back)
    for index, theirs in pairs:
        if mine[index].sender != me:
            mine[index] = mine[index]._replace(at=theirs.at + shift)
    moved = [each._replace(at=each.at + shift) for each in news]
    return sorted([*mine, *moved], key=_order)


def _order(step: Step) -> tuple[float, float]:
    """By time; what one party does at one instant in the figure's order."""
    figure, _, number = step.step.partition(".")
    # Where Fig. 3 needs a relay, Fig. 5 (14) and (15) come between its (7) and (8).
    return step.at, float(number) if figure == "3" else 7.0 + float(number) / 100.0


def _same(mine: Step, theirs: Step) -> bool:
    return (mine.step, shortened(mine.sender), shortened(mine.receiver)) == (
        theirs.step,
        theirs.sender,
        theirs.receiver,
    )


def told(steps: list[Step], began_at: float, silent: tuple[str, ...]) -> TraceResponse:
    """The steps as they travel, from ``began_at`` on; ``silent``: who told nothing."""
    titles = dict.fromkeys(
        shortened(title) for step in steps for title in (step.sender, step.receiver)
    )
    parties = tuple(titles)[:MAX_PARTIES]
    return TraceResponse(
        parties=parties,
        steps=tuple(
            _seen(step, began_at, parties)
            for step in steps[:MAX_STEPS]
            if {shortened(step.sender), shortened(step.receiver)} <= set(parties)
        ),
        silent=tuple(shortened(title) for title in silent[:2]),
    )


def _seen(step: Step, began_at: float, parties: tuple[str, ...]) -> SeenStep:
    figure, _, number = step.step.partition(".")
    return SeenStep(
        int(figure),
        int(number),
        max(0, round((step.at - began_at) * 1e6)),
        parties.index(shortened(step.sender)),
        parties.index(shortened(step.receiver)),
        step.refused,
    )


def read(response: TraceResponse) -> list[Step]:
    """What `told` made, with instants in seconds since the other party's beginning."""
    parties = {number: _printable(title) for number, title in enumerate(response.parties)}
    return [
        Step(
            seen.microseconds / 1e6,
            f"{seen.figure}.{seen.number}",
            parties.get(seen.sender, ""),
            parties.get(seen.receiver, ""),
            seen.refused,
        )
        for seen in response.steps
    ]


def _printable(title: str) -> str:
    """Another party's words as they may go to a terminal."""
    return "".join(each if each.isprintable() else "?" for each in title)


def shortened(title: str) -> str:
    """A party's name as it travels: the end of a long one is left out."""
    return title.encode()[:MAX_TITLE_SIZE].decode(errors="ignore")
