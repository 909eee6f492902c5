"""The lab as a fixture, and what its programs printed as part of a failure's report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lab import Lab, unavailable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


@pytest.fixture(scope="session")
def lab_is_possible() -> None:
    if reason := unavailable():
        pytest.skip(reason)


@pytest.fixture
def lab(lab_is_possible: None) -> Iterator[Lab]:  # noqa: ARG001 (asked first)
    with Lab() as lab:
        yield lab


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        report.sections += [
            (f"lab host {host.name}", process.describe())
            for host in lab.hosts.values()
            for process in host.started
            if not process.is_quiet_success
        ]
    return report
