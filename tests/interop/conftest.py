"""The lab, and the peers in it that nobody here wrote."""

import lab_wireguard
import pytest
from lab_fixtures import lab, lab_is_possible, pytest_runtest_makereport

__all__ = ["lab", "lab_is_possible", "pytest_runtest_makereport", "wireguard_is_possible"]


@pytest.fixture(scope="session")
def wireguard_is_possible(lab_is_possible: None) -> None:  # noqa: ARG001 (asked first)
    if reason := lab_wireguard.unavailable():
        pytest.skip(reason)
