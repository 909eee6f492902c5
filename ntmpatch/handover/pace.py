"""How soon paths are challenged, suspected, and left; all in seconds or in round trips."""

from __future__ import annotations

PUNCH_INTERVALS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between challenges of a path that has never answered. Both ends have been told of each
other within a second; the NATs of both have to have seen something leave."""
SUSPECT_RTTS = 2.5
"""Round trips without an answer to data after which a path is suspected."""
MAX_PATIENCE = 1.0
"""Seconds; where the far end has nothing to say, suspicion was wrong, and comes later next time."""
DOUBT = 0.5
"""Seconds without an answer by the path in use, while the peer sends by another one."""
GRACE_RTTS = 1.25
"""Round trips that the path in use has to answer before another one that answered is taken."""
MIN_GRACE = 0.06
"""Seconds: time for three challenges where the round trip is short, as one alone is soon lost."""
MAX_FURTHER_GRACE = 0.5
"""Hysteresis: seconds beyond that, at most, where paths were left before, not long ago."""
MAX_UNREACHABLE_INTERVAL = 8.0
MIN_BUDGET = 1200
"""Bytes that may be sent on trial for however little came from there: one full datagram, which lets
a stream go on a round trip earlier, and which bans make one in seconds for who replays packets."""
MIN_TRIAL = 0.3
"""Seconds that a peer has to prove where it was followed to, at least."""
FIRST_BAN = 5.0
MAX_BAN = 300.0
"""Seconds in which a place that was not proven is not followed to; doubled each time."""
LOOK_AROUND_INTERVAL = 10.0
"""Seconds between looks for something better, and at what is kept warm, while there is traffic."""
LOOK_INTERVALS = (0.5, 0.5)
"""Seconds between challenges of such a look."""
MAX_WAYS = 24
"""Paths of one peer that are kept in mind."""
MAX_PENDING = 8
"""Challenges of one path that may be answered."""
