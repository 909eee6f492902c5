"""What reading msgpack may raise, in one place: a decoder that forgets one lets it escape."""

from __future__ import annotations

import msgspec

BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
"""All that msgspec raises for bytes that are not what they were said to be.

Not only its own errors: text that is no UTF-8, and nesting that is too deep even in a field that is
skipped, raise Python's.
"""
