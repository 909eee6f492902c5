"""Those of CPython's test modules that take seconds; ``report.py`` runs all of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import report

MODULES = (
    "test_httplib",
    "test_smtplib",
    "test_socketserver",
    "test_telnetlib",
    "test_urllib2_localnet",
)


@pytest.mark.skipif(
    importlib.util.find_spec("test.test_socket") is None,
    reason="this interpreter comes without CPython's tests",
)
@pytest.mark.parametrize("module", MODULES)
def test_nothing_fails_without_a_known_reason(module: str) -> None:
    if importlib.util.find_spec(f"test.{module}") is None:
        return  # telnetlib is gone in 3.13
    row = report.measure(module)
    assert row.count("passed") > 10
    _, unexplained = report.judge([row], report.known_reasons())
    assert unexplained == []
