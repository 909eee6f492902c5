"""SIGKILL at random moments: what was acknowledged is there; what was under way, wholly or not.

A child runs random operations on the real stores and tells each on a pipe, before and after. It is
killed, and for PostgreSQL now and then the whole cluster before it; then what the database holds
is compared with the model. ``NTMPATCH_KILLS=50`` is the long form.
"""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from storage_operations import ModelStores, RealStores, random_operation

from ntmpatch.runtime.database import open_database

if TYPE_CHECKING:
    from databases import Database

pytestmark = [pytest.mark.once, pytest.mark.timeout(1200)]

KILLS = int(os.environ.get("NTMPATCH_KILLS", "6"))
MOST_OPERATIONS = 60
"""Between two kills."""


def run_operations(url: str, seed: int, number: int, pipe: int) -> None:
    """The child: operations from that number on, until it is killed."""
    stores = RealStores(open_database(url))
    rng = random.Random(seed)
    while True:
        operation = random_operation(rng, number)
        os.write(pipe, json.dumps(operation).encode() + b"\n")
        outcome = stores.apply(operation)
        os.write(pipe, json.dumps([outcome]).encode() + b"\n")
        number += 1


def start_child(url: str, seed: int, number: int) -> tuple[int, int]:
    """Its process, and the pipe on which it tells what it does."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            with open(os.devnull, "w") as silence:
                os.dup2(silence.fileno(), 2)  # a cluster that is killed under it is no news
            run_operations(url, seed, number, writer)
        finally:
            os._exit(1)
    os.close(writer)
    return child, reader


@pytest.mark.parametrize("seed", [1])
def test_nothing_acknowledged_is_lost_and_nothing_is_half_done(
    database: Database, seed: int
) -> None:
    rng = random.Random(seed)
    open_database(database.url).dispose()
    model = ModelStores()
    number = acknowledged = cut_short = applied = 0
    for kill in range(KILLS):
        child, reader = start_child(database.url, rng.getrandbits(32), number)
        lines = 2 * rng.randrange(1, MOST_OPERATIONS) + rng.randrange(2)
        with os.fdopen(reader, "rb") as told:
            heard = [told.readline() for _ in range(lines)]
            time.sleep(rng.uniform(0.0, 0.01))  # into the middle of what it does now
            if rng.random() < 0.3:
                database.crash()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            heard += told.readlines()
        said = [json.loads(line) for line in heard if line.endswith(b"\n")]
        under_way = tuple(said.pop()) if len(said) % 2 else None
        for operation, (outcome,) in zip(said[::2], said[1::2], strict=True):
            expected = model.apply(tuple(operation))
            assert expected == outcome, f"seed {seed}, kill {kill}: {operation}"
        acknowledged += len(said) // 2
        number += len(said) // 2 + (under_way is not None)
        engine = open_database(database.url)
        held = RealStores(engine).snapshot()
        engine.dispose()
        possible = [model, *with_parts(model, under_way)]
        found = [candidate for candidate in possible if candidate.snapshot() == held]
        assert found, f"seed {seed}, kill {kill}: {under_way}: {difference(possible, held)}"
        cut_short += under_way is not None
        applied += found[0] is not model
        model = found[0]
        check_invariants(held)
    assert acknowledged > 5 * KILLS
    print(f"{KILLS} kills: {acknowledged} acknowledged, {cut_short} cut short, {applied} whole")


def with_parts(model: ModelStores, operation: Any) -> list[ModelStores]:
    """The model after each write of the operation that was cut short."""
    after = []
    for part in model.parts(operation) if operation is not None else ():
        candidate = copy.deepcopy(model)
        candidate.apply(part)
        after.append(candidate)
    return after


def difference(possible: list[ModelStores], held: dict[str, Any]) -> str:
    expected = possible[-1].snapshot()
    return str(
        {what: (expected[what], held[what]) for what in held if expected[what] != held[what]}
    )


def check_invariants(held: dict[str, Any]) -> None:
    """What must be so whatever the model says."""
    given = [row[1] for row in held["addresses"].values()]
    assert len(set(given)) == len(given)
    keys = [row[0] for row in held["accounts"].values() if row[0] is not None]
    assert len(set(keys)) == len(keys)
    prefixes = [prefix for pair in held["leases"].values() for prefix in pair]
    assert len(set(prefixes)) == len(prefixes)
