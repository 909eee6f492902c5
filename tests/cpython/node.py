"""A node without tunnels in a process of its own; prints its control path, ends with its input."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from nodes import Nodes

nodes = Nodes(sys.argv[1], "a")
service = nodes.services["a"]
nodes.aliases["localhost"] = service
print(nodes.control_path("a"), flush=True)
sys.stdin.read()
nodes.stop()
