"""ntmpatch: IP mobility and reachability for unmodified Python programs."""

from __future__ import annotations

__version__ = "0.1.0"
