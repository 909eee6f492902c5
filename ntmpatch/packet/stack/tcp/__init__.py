"""TCP: one connection's state machine, split by what it does (RFC 9293 and its companions)."""
