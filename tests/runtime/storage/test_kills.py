"""SIGKILL at random moments: what was acknowledged is there; what was under way, wholly or not.

A child runs random operations on the real stores and tells each on a pipe, before and after. It is
killed, and for PostgreSQL now and then the whole cluster before it; then what the database holds
is compared with the model. It writes one by one, or as the servers do, in groups that are committed
together. ``NTMPATCH_KILLS=50`` is the long form.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from storage_operations import ModelStores, RealStores, random_operation

from ntmpatch.runtime.batching import GroupedEngine
from ntmpatch.runtime.database import open_database

if TYPE_CHECKING:
    from databases import Database

pytestmark = [pytest.mark.once, pytest.mark.timeout(1200)]

KILLS = int(os.environ.get("NTMPATCH_KILLS", "6"))
MOST_OPERATIONS = 60
"""Between two kills; of groups, so many groups."""
MOST_IN_A_GROUP = 6


def run_operations(url: str, seed: int, number: int, pipe: int, *, grouped: bool) -> None:
    """The child: operations from that number on, until it is killed."""
    engine = GroupedEngine(open_database(url))
    stores = RealStores(engine.as_engine())
    rng = random.Random(seed)
    while True:
        size = rng.randrange(1, MOST_IN_A_GROUP + 1) if grouped else 1
        operations = [random_operation(rng, number + index) for index in range(size)]
        os.write(pipe, json.dumps(operations).encode() + b"\n")
        with engine.group() if grouped else contextlib.nullcontext():
            outcomes = [stores.apply(operation) for operation in operations]
        os.write(pipe, json.dumps(outcomes).encode() + b"\n")
        number += size


def start_child(url: str, seed: int, number: int, *, grouped: bool) -> tuple[int, int]:
    """Its process, and the pipe on which it tells what it does."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            with open(os.devnull, "w") as silence:
                os.dup2(silence.fileno(), 2)  # a cluster that is killed under it is no news
            run_operations(url, seed, number, writer, grouped=grouped)
        finally:
            os._exit(1)
    os.close(writer)
    return child, reader


@pytest.mark.parametrize("grouped", [False, True], ids=["one by one", "in groups"])
def test_nothing_acknowledged_is_lost_and_nothing_is_half_done(
    database: Database, grouped: bool
) -> None:
    seed = 1 + grouped
    rng = random.Random(seed)
    open_database(database.url).dispose()
    model = ModelStores()
    number = acknowledged = cut_short = applied = 0
    for kill in range(KILLS):
        child, reader = start_child(database.url, rng.getrandbits(32), number, grouped=grouped)
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
        under_way = [tuple(operation) for operation in said.pop()] if len(said) % 2 else []
        for operations, outcomes in zip(said[::2], said[1::2], strict=True):
            for operation, outcome in zip(operations, outcomes, strict=True):
                expected = model.apply(tuple(operation))
                assert expected == outcome, f"seed {seed}, kill {kill}: {operation}"
            acknowledged += len(operations)
            number += len(operations)
        number += len(under_way)
        engine = open_database(database.url)
        held = RealStores(engine).snapshot()
        engine.dispose()
        whole = copy.deepcopy(model)
        possible = [model, *beginnings(whole, under_way, grouped=grouped)]
        found = [candidate for candidate in possible if candidate.snapshot() == held]
        assert found, f"seed {seed}, kill {kill}: {under_way}: {difference(possible, held)}"
        cut_short += bool(under_way)
        applied += found[0] is not model
        model = found[0]
        check_invariants(held)
    assert acknowledged > 5 * KILLS
    print(f"{KILLS} kills: {acknowledged} acknowledged, {cut_short} cut short, {applied} whole")


def beginnings(model: ModelStores, under_way: list[Any], *, grouped: bool) -> list[ModelStores]:
    """The model after what was cut short: after each write of it, or of a group after all."""
    after = []
    for operation in under_way:
        for part in model.parts(operation):
            model.apply(part)
            after.append(copy.deepcopy(model))
    return after[-1:] if grouped else after


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
