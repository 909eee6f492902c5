"""The index of names and addresses, against what a search through all of them finds."""

from __future__ import annotations

import random

import pytest

from ntmpatch.servers.direction.names import NameIndex

LABELS = ("a", "b", "cam")


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_a_search(seed: int) -> None:
    rng = random.Random(seed)
    index = NameIndex()
    plain: dict[str, tuple[bytes, ...]] = {}
    holder: dict[bytes, str] = {}

    def address(size: int) -> bytes:
        return bytes(rng.choice((0, 1, 255)) if at > size - 4 else 7 for at in range(size))

    for _ in range(300):
        name = ".".join([*rng.choices(LABELS, k=rng.randint(1, 3)), "home", "example"])
        before = index.changes
        if rng.random() < 0.4:
            changed = name in plain
            for each in plain.pop(name, ()):
                if holder.get(each) == name:
                    del holder[each]
            index.remove(name)
        else:
            addresses = (address(4), rng.choice((b"", address(16))))
            kept = tuple(each for each in addresses if each)
            changed = plain.get(name) != kept
            if changed:
                for each in plain.get(name, ()):
                    if holder.get(each) == name:
                        del holder[each]
                plain[name] = kept
                holder.update(dict.fromkeys(kept, name))
            index.put(name, addresses)
        assert (index.changes > before) == changed
        assert dict(index) == plain
        for each in {*holder, address(4), address(16)}:
            assert index.name_of(each) == holder.get(each)
            size = rng.randrange(1, len(each))
            if len(each) == 4:
                begin: str | bytes = each[:size]
                below = any(len(other) == 4 and other.startswith(each[:size]) for other in holder)
            else:
                digits = each.hex()[: size * 2 - 1]
                begin = f"#{digits}"
                below = any(len(o) == 16 and o.hex().startswith(digits) for o in holder)
            assert index.has_below(begin) == below
        for text in ("example", "home.example", "a.home.example", "b.a.home.example"):
            assert index.has_below(text) == any(other.endswith(f".{text}") for other in plain)
    for name in list(plain):
        index.remove(name)
    assert not index.has_below("example")
    assert not index._below, "nothing is left behind"
