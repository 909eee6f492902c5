"""Two processes that meet in a fresh state directory have one key between them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ntmpatch.runtime import state
from ntmpatch.runtime.state import StateDirectory

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_key_that_another_process_made_meanwhile_is_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    ours, theirs = StateDirectory(tmp_path), StateDirectory(tmp_path)
    made: list[bytes] = []
    system = os.urandom

    def urandom(size: int) -> bytes:
        # Between our look and our writing, the other one does both.
        monkeypatch.setattr(state.os, "urandom", system)
        made.append(theirs.random_key("as-signing.key"))
        return system(size)

    monkeypatch.setattr(state.os, "urandom", urandom)
    assert ours.random_key("as-signing.key") == made[0] == ours.random_key("as-signing.key")
    assert [entry.name for entry in tmp_path.iterdir()] == ["as-signing.key"]


def test_a_file_is_created_once_and_written_often(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    directory = StateDirectory(tmp_path)
    assert directory.create("file", b"first")
    assert not directory.create("file", b"second")
    assert directory.read("file") == b"first"
    directory.write("file", b"third")
    assert directory.read("file") == b"third"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
