"""What tests of the command line share."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRIVATE_KEY = "4Gjc8Ml0rsa6yYlZ1nP2hMBo2cYwhfY0Xw3mQ0PzFUU="
PEER_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture
def static_identity(tmp_path: Path) -> list[str]:
    """Options of a node whose one peer is in its configuration: it needs no server to run."""
    config = tmp_path / "node.toml"
    (tmp_path / "node.key").write_text(PRIVATE_KEY)
    config.write_text(
        f'[node]\nprivate_key_file = "{tmp_path / "node.key"}"\n'
        'name = "here.home.example"\naddresses = ["198.18.0.1"]\n'
        f'[[peer]]\nname = "there.home.example"\npublic_key = "{PEER_KEY}"\n'
        'addresses = ["198.18.0.2"]\n'
    )
    return ["--config", str(config), "--state", str(tmp_path / "state")]


@pytest.fixture
def servers(config: Path) -> Iterator[subprocess.Popen[str]]:
    """All four servers, serving by the test's own ``config``."""
    command = [sys.executable, "-m", "ntmpatch", "serve", "all", "--config", str(config), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["ready"] is True
            yield process
        finally:
            process.kill()
