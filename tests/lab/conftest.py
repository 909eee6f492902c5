"""The lab as a fixture."""

from lab_fixtures import lab, lab_is_possible, pytest_runtest_makereport

__all__ = ["lab", "lab_is_possible", "pytest_runtest_makereport"]
