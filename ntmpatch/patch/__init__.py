"""The patched surface: sockets and names of any Python program, made to reach virtual addresses."""

from __future__ import annotations

from ntmpatch.patch.apply import is_patched, patch_all, unpatch_all
from ntmpatch.patch.settings import Settings

__all__ = ["Settings", "is_patched", "patch_all", "unpatch_all"]
