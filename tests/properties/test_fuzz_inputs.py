"""The fuzzer's program (tests/fuzz) on inputs of a seed: it runs, and reaches connections."""

from __future__ import annotations

import random

import pytest
from stack_fuzz import World, play

INPUTS = 300
GROUPS = 10


@pytest.mark.parametrize("group", range(GROUPS))
def test_no_input_raises_or_leaves_anything(group: int) -> None:
    for seed in range(group, INPUTS, GROUPS):
        rng = random.Random(seed)
        data = rng.randbytes(rng.randrange(1, 1200))
        try:
            play(data)
        except Exception as error:
            error.add_note(f"seed {seed}: {data.hex()}")
            raise


@pytest.mark.parametrize("settings", range(256))
def test_it_begins_with_the_connections_that_its_first_byte_asks_for(settings: int) -> None:
    world = World(bytes([settings]))
    assert [each.is_up for each in world.programs] == (
        [bool(settings & 32)] + [True] * bool(settings & 64)
    )
    world.end()
