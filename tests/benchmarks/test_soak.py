"""What the soak judges by: a leak is told from a warm-up, and a pause from the end of a stream."""

from __future__ import annotations

import json
from types import SimpleNamespace

from soak_lab.watch import LEAST_SAMPLES, MIB, Memory, Reports


def test_memory_that_grows_on_is_not_flat():
    count = 3 * LEAST_SAMPLES
    leaking = Memory([100 * MIB + sample * MIB // 20 for sample in range(count)])
    assert leaking.is_flat is False
    warming_up = [(50 + sample) * MIB for sample in range(count // 10)]
    flat = Memory([*warming_up, *[(76 + sample % 2) * MIB for sample in range(count)]])
    assert flat.is_flat is True
    assert Memory([50 * MIB] * (LEAST_SAMPLES - 1)).is_flat is None


def test_reports_are_read_once_and_never_by_halves():
    lines = [
        json.dumps({"size": size, "stream_pause": pause, "datagram_pause": 0.0})
        for size, pause in ((1, 0.5), (2, 0.1), (3, 0.2))
    ]
    process = SimpleNamespace(stdout="\n".join(lines[:2]) + "\n" + lines[2][:9])
    reports = Reports(process)
    assert reports.news()["stream_pause"] == 0.5
    assert reports.latest["size"] == 2
    process.stdout = "\n".join(lines) + "\n"
    assert reports.news()["stream_pause"] == 0.2
    assert (reports.latest["size"], reports.longest["stream_pause"]) == (3, 0.5)
    assert reports.news()["stream_pause"] == 0.0
