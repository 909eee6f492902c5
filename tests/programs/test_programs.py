"""Unmodified programs that nobody here wrote serve and use each other by name, both ways."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from lab_programs import SCRIPTS, checks_of
from programs_catalogue import PROGRAMS, SERVICES, Program
from programs_table import DIRECTIONS, id_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab_programs import Pair, Residence

pytestmark = [pytest.mark.lab, pytest.mark.once]


class Services:
    """Starts what a program needs on a node; shared services run until the session ends."""

    def __init__(self, certificate: tuple[Path, Path], tmp_path_factory: Any) -> None:
        self._certificate, self._key = certificate
        self._factory = tmp_path_factory
        self._shared: dict[tuple[str, str], dict[str, Any]] = {}

    @contextlib.contextmanager
    def serving(self, name: str, residence: Residence) -> Iterator[dict[str, Any]]:
        """The service runs meanwhile: the values that command lines are filled in with."""
        service = SERVICES[name]
        values = self._shared.get((name, residence.name))
        if values is not None:
            yield values
            return
        values = {
            "name": residence.name,
            "port": residence.port(),
            "tls_port": residence.port(),
            "certificate": self._certificate,
            "key": self._key,
            "directory": self._factory.mktemp("served"),
            "bin": SCRIPTS,
        }
        words = [word.format(**values) for word in service.words]
        if service.is_shared:
            residence.start(service.ready, *words)
            self._shared[name, residence.name] = values
            yield values
        else:
            with residence.serving(service.ready, *words):
                yield values


@pytest.fixture(scope="module")
def services(certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Services:
    return Services(certificate, tmp_path_factory)


@pytest.mark.parametrize(
    ("program", "server"),
    [
        pytest.param(program, direction[-1], id=id_of(program, direction))
        for program in PROGRAMS
        for direction in DIRECTIONS
    ],
)
def test_program(pair: Pair, services: Services, program: Program, server: str) -> None:
    if missing := program.missing():
        pytest.skip(f"{', '.join(missing)} not installed: pip install '.[programs]'")
    client = pair.other(server)
    with services.serving(program.service, pair[server]) as values:
        own = {"client_ipv4": client.ipv4, "client_ipv6": client.ipv6}
        words = [word.format(**values, **own) for word in program.client]
        assert tuple(checks_of(client.run(*words))) == program.checks
