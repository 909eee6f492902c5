"""The lab, for what only a real kernel says."""

from lab_fixtures import lab, lab_is_possible, pytest_runtest_makereport

__all__ = ["lab", "lab_is_possible", "pytest_runtest_makereport"]
