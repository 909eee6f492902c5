"""What the reachability runner makes of its runs: it hides no cell that is not as it may be."""

from __future__ import annotations

from lab_access import Access
from reachability_lab.cell import Cell, Run
from reachability_lab.report import as_json, findings, table

DIRECT = Run(0.01, 0.01, is_direct=True, time_to_direct=0.5)
RELAYED = Run(0.02, 0.01)
EASY = Cell(Access.FULL_CONE, Access.PORT_RESTRICTED)
BY_PROBING = Cell(Access.SYMMETRIC, Access.PORT_RESTRICTED)
NEVER = Cell(Access.IPV4_ONLY, Access.IPV6_ONLY)


def test_cells_that_are_as_rfc_4787_allows_are_no_findings() -> None:
    results = {EASY: [DIRECT] * 20, BY_PROBING: [DIRECT] * 19 + [RELAYED], NEVER: [RELAYED] * 20}
    assert findings(results) == ""
    assert "**" not in table(results)
    assert "direct in 19 of 20" in table(results)


def test_what_is_not_direct_does_not_connect_or_breaks_is_told() -> None:
    results = {
        EASY: [DIRECT] * 19 + [RELAYED],
        BY_PROBING: [DIRECT] * 18 + [RELAYED] * 2,
        NEVER: [Run(error="/home/someone/secret"), Run(0.02, 0.01, error="; then it broke")],
    }
    assert findings(results).splitlines() == [
        "- full cone calls port-restricted: direct in 19 of 20 runs; may be direct.",
        "- symmetric calls port-restricted: direct in 18 of 20 runs; "
        "may be direct by port probing.",
        "- IPv4 only calls IPv6 only: no connection in 1 of 2 runs.",
        "- IPv4 only calls IPv6 only: broke, or its path is not what it says, in 1 of 2 runs.",
    ]
    assert table(results).count("**direct in ") == 2
    assert "**1 of 2 without connection**" in table(results)
    assert "someone" not in str(as_json(results))


def test_a_cell_without_any_connection_has_no_time() -> None:
    assert "**no connection**" in table({NEVER: [Run(error="nothing came")]})
