"""Watches a host's networks: prints a JSON line for the first picture and for every change.

With an argument, a FIFO, it does not run its hub before that has been written to, so that the
kernel's messages overflow the socket in the meantime.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import gevent

from ntmpatch.handover.networks import EVERY_INTERFACE
from ntmpatch.runtime.handover import Handover

if TYPE_CHECKING:
    from ntmpatch.handover.networks import Change, Picture


def tell(picture: Picture) -> None:
    facts = [[n.interface, n.address, n.has_default, n.metric, n.gateway] for n in picture]
    print(json.dumps(facts), flush=True)


def changed(change: Change) -> None:
    tell(change.new)


handover = Handover(EVERY_INTERFACE, changed)
handover.start()
tell(handover.picture)
for stall in sys.argv[1:]:
    Path(stall).read_text()
while True:
    gevent.sleep(60.0)
