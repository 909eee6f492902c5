"""Every decoder of bytes from outside, each with samples and with what it may raise.

A target makes inputs from a seed: valid ones that are damaged in a few places, trees of values that
are damaged inside and written again (so that lengths are right and the damage is reached), and
plain noise. What it raises beyond what its contract says is a finding.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INTERESTING = (
    None, True, 0, 1, -1, 255, 65535, 65536, 2**31, 2**32, 2**63 - 1, 2**64 - 1, 0.0, -1.0,
    float("nan"), float("inf"), 1e308, "", "x", "a.b", "\x00", "\n\x1b[2J", "x" * 300, b"",
    b"\x00" * 32, b"\xff" * 65, b"x" * 700, [], [[]], {}, {"a": 1}, [1, [2, [3, [4]]]], [None] * 40,
)  # fmt: skip
"""Values that decoders are known to trip over."""

DEEP = b"\x91" * 700
"""Lists in lists in lists, in msgpack."""


class Target:
    """One decoder. ``run`` gives the name of what became of an input, and lets nothing escape
    but what ``allowed`` names."""

    def __init__(
        self,
        name: str,
        samples: Callable[[random.Random], Sequence[bytes]],
        run: Callable[[bytes], str],
        *,
        allowed: tuple[type[Exception], ...] = (),
        seal: Callable[[bytes, random.Random], bytes] = lambda body, _: body,
        packed: bool = False,
        unharmed: float = 0.1,
        share: int = 1,
    ) -> None:
        self.name = name
        self._unharmed = unharmed
        self.share = share
        """How often it is tried, relative to others."""
        self._samples = samples
        self._run = run
        self._allowed = allowed
        self._seal = seal
        self._packed = packed

    def make(self, rng: random.Random) -> bytes:
        """An input."""
        kind = rng.random()
        if kind < 0.08:
            return rng.randbytes(rng.choice((0, 1, 7, 32, 148, 300, 1200, 2000)))
        body = rng.choice(self._samples(rng))
        if rng.random() < self._unharmed:
            return self._seal(body, rng)
        if self._packed and kind < 0.6:
            return self._seal(damage_tree(body, rng), rng)
        if kind < 0.8:
            return self._seal(damage(body, rng), rng)
        return damage(self._seal(body, rng), rng)

    def play(self, data: bytes) -> str:
        """What became of an input, by name."""
        try:
            return self._run(data)
        except self._allowed as refused:
            drop = getattr(refused, "drop", None)
            return f"{type(refused).__name__}: {drop}" if drop else type(refused).__name__


def damage(data: bytes, rng: random.Random) -> bytes:
    """``data`` with one to four things done to it that a bad link or a bad mind would do."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(out) + 1)
        match rng.randrange(8):
            case 0 if place < len(out):
                out[place] ^= 1 << rng.randrange(8)
            case 1 if place < len(out):
                out[place] = rng.choice((0, 1, 0x7F, 0x80, 0xC0, 0xDC, 0xDF, 0xFF))
            case 2:
                del out[place:]
            case 3:
                del out[place : place + rng.choice((1, 2, 4, 16))]
            case 4:
                out[place:place] = rng.randbytes(rng.choice((1, 2, 4, 40)))
            case 5:
                out[place:place] = out[place : place + rng.randrange(1, 64)]
            case 6:
                out[place : place + 4] = rng.choice((0, 1, 0xFFFFFFFF, 1 << 31)).to_bytes(4)
            case _:
                out[place : place + 3] = rng.choice((b"\xdd\xff\xff", b"\xc6\xff\xff", DEEP[:300]))
    return bytes(out)


def damage_tree(packed: bytes, rng: random.Random) -> bytes:
    """A msgpack value with one or two of its inner values changed, and written again."""
    tree = msgspec.msgpack.decode(packed)
    for _ in range(rng.choice((1, 1, 2))):
        tree = _with_damage(tree, rng)
    encoded = msgspec.msgpack.encode(tree)
    if isinstance(tree, list) and 0 < len(tree) < 14 and rng.random() < 0.05:
        # One field more, and that one deep: it is skipped, and skipping is decoding too.
        return bytes((encoded[0] + 1,)) + encoded[1:] + DEEP + b"\x01"
    return encoded


def _with_damage(tree: Any, rng: random.Random) -> Any:
    if isinstance(tree, list) and tree and rng.random() < 0.9:
        place = rng.randrange(len(tree))
        match rng.randrange(6):
            case 0:
                return tree[:place]
            case 1:
                return [*tree, rng.choice(INTERESTING)]
            case 2:
                return [*tree[:place], tree[-1], *tree[place + 1 :]]
            case _:
                return [*tree[:place], _with_damage(tree[place], rng), *tree[place + 1 :]]
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        key = rng.choice(list(tree))
        return {**tree, key: _with_damage(tree[key], rng)}
    if isinstance(tree, bytes) and rng.random() < 0.5:
        return damage(tree, rng)
    if isinstance(tree, int) and not isinstance(tree, bool) and rng.random() < 0.3:
        return rng.choice((tree + 1, tree - 1, -tree)) if abs(tree) < 2**62 else 0
    return rng.choice(INTERESTING)


def fuzz(
    targets: Sequence[Target], count: int, seed: int
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Play ``count`` inputs: what became of them by target and name, and what was found.

    A finding is an input that made a decoder raise what it must not; one of a kind is told, with
    the arguments that replay it.
    """
    rng = random.Random(seed)
    counts: Counter[tuple[str, str]] = Counter()
    findings: dict[tuple[str, str], str] = {}
    chosen = [target for target in targets for _ in range(target.share)]
    for _ in range(count):
        target = rng.choice(chosen)
        data = target.make(rng)
        try:
            outcome = target.play(data)
        except Exception as error:
            outcome = f"FOUND {type(error).__name__}"
            findings.setdefault(
                (target.name, outcome), f"{error!r:.300} --replay {target.name!r} {data.hex()}"
            )
        counts[target.name, outcome] += 1
    return counts, list(findings.values())
