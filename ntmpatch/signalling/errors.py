"""How a transaction ends badly; raised inside the process that asked."""

from __future__ import annotations

from ntmpatch.base.errors import RefusedError, UnavailableError
from ntmpatch.wire.control_messages import Refusal, RefusalCode


class Refused(RefusedError):  # noqa: N818 - reads as the event that it is
    """The other party answered with a Refusal; raised in a handler it becomes that answer."""

    def __init__(self, code: RefusalCode, text: str = "") -> None:
        if not text.isprintable():
            # It may be another party's, and ends in logs and on terminals: one line, no controls.
            text = "".join(each if each.isprintable() else "\ufffd" for each in text)
        super().__init__(text or code.name.lower().replace("_", " "))
        self.code = code

    def message(self) -> Refusal:
        """The Refusal that tells the asker."""
        return Refusal(int(self.code), str(self)[:200])


class Silent(UnavailableError):  # noqa: N818 - reads as the event that it is
    """The other party did not answer in time, in spite of retransmission."""
