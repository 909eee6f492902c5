"""One lab for all programs: a switch, a host with the servers, and the nodes ``a`` and ``b``."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import programs_table
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from lab import Lab
from lab_fixtures import lab_is_possible
from lab_programs import Pair, make_pair

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

__all__ = ["lab_is_possible"]


PASSED: set[str] = set()
"""Ids of tests of programs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-table",
        action="store_true",
        help="write the table of docs/programs.md anew, if all tests of programs have passed",
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed and "::test_program[" in report.nodeid:
        PASSED.add(report.nodeid.partition("[")[2].removesuffix("]"))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.getoption("--write-table", default=False):
        terminalreporter.write_line(programs_table.write(PASSED))


@pytest.fixture(scope="session")
def programs_lab(
    lab_is_possible: None,  # noqa: ARG001 (asked first)
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    with Lab() as lab:
        yield make_pair(lab, tmp_path_factory.mktemp("programs"))


@pytest.fixture
def pair(programs_lab: Pair) -> Pair:
    """Nodes ``a`` and ``b``, registered, each kept by a process that other programs attach to."""
    programs_lab.forget_ended()
    return programs_lab


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of both nodes' names: paths of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lab")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(f"{label}.lab.example") for label in "ab"]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    certificate_path, key_path = directory / "cert.pem", directory / "key.pem"
    certificate_path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_path, key_path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """What the programs of a failed test printed."""
    report = yield
    pair = getattr(item, "funcargs", {}).get("pair")
    if report.failed and isinstance(pair, Pair):
        report.sections += [
            (f"lab host {host}", process.describe())
            for host, process in pair.processes()
            if not process.is_quiet_success
        ]
    return report
